// Memory that may run out. Inside the kernels that is std::bad_alloc, which leaves no thread of a team
// (`team.h`) and no function of the C interface.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace tandem {

constexpr int64_t CACHE_LINE = 64;

// Grown to what is asked for, and freed with whoever owns it: where that is a thread, with the thread.
class Memory {
   public:
    Memory() = default;
    Memory(const Memory&) = delete;
    ~Memory() { free(start); }

    // At least so many bytes, from a cache line on; kept until more are asked for, and not written
    // yet if they are new.
    void* at_least(int64_t num_bytes) {
        if (num_bytes > size) {
            free(start);
            size = 0;  // until there is memory
            const int64_t num_lines = (num_bytes + CACHE_LINE - 1) / CACHE_LINE;
            start = aligned_alloc(CACHE_LINE, num_lines * CACHE_LINE);
            if (!start) throw std::bad_alloc();
            size = num_bytes;
        }
        return start;
    }

   private:
    void* start = nullptr;
    int64_t size = 0;
};

// Whether there was memory for all of the work.
template <class Work>
bool has_memory_for(const Work& work) {
    try {
        work();
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace tandem
