// Memory that may run out. Inside the kernels that is std::bad_alloc, which leaves no thread of a team
// (`team.h`) and no function of the C interface.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace tandem {

constexpr int64_t CACHE_LINE = 64;

// From a cache line on, not written yet. To be freed.
inline void* aligned_memory(int64_t num_bytes) {
    const int64_t num_lines = (num_bytes + CACHE_LINE - 1) / CACHE_LINE;
    void* const memory = aligned_alloc(CACHE_LINE, num_lines * CACHE_LINE);
    if (!memory) throw std::bad_alloc();
    return memory;
}

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
