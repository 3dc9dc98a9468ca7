// Work shared out among torch's own threads.
#pragma once

#include <atomic>
#include <cstdint>

namespace tandem {

// `GOMP_parallel` of the OpenMP that torch runs on, handed in by the caller: a second OpenMP in the
// process would have threads of its own, which spin on the cores that torch's threads need.
using Parallel = void (*)(void (*work)(void*), void* data, unsigned num_threads, unsigned flags);

struct Team {
    Parallel parallel;  // null: one thread
    int64_t num_threads;

    bool is_one() const { return !parallel || num_threads < 2; }

    // Calls work(i) once for each i, in any order, on any thread.
    template <class Work>
    void each(int64_t count, const Work& work) const {
        if (is_one() || count < 2) {
            for (int64_t i = 0; i < count; i++) work(i);
            return;
        }
        struct Job {
            const Work& work;
            int64_t count;
            std::atomic<int64_t> next{0};
        } job{work, count};
        const auto run = [](void* data) {
            Job& job = *static_cast<Job*>(data);
            for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;)
                job.work(i);
        };
        parallel(run, &job, unsigned(num_threads < count ? num_threads : count), 0);
    }
};

}  // namespace tandem
