// Work shared out among torch's own threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "memory.h"

namespace tandem {

// `GOMP_parallel` of the OpenMP that torch runs on, handed in by the caller: a second OpenMP in the
// process would have threads of its own, which spin on the cores that torch's threads need.
using Parallel = void (*)(void (*work)(void*), void* data, unsigned num_threads, unsigned flags);

struct Team {
    static constexpr int64_t MOST_THREADS = 256;

    Parallel parallel;  // null: one thread
    int64_t num_threads;

    bool is_one() const { return !parallel || num_threads < 2; }

    // Calls work(i) once for each i, in any order, on any thread.
    template <class Work>
    void each(int64_t count, const Work& work) const {
        each_and_next(count, [&](int64_t i, int64_t) { work(i); });
    }

    // Calls work(i, next) once for each i, where `next` is what the thread takes next, unless another
    // is done with its own before; `count` or more if there is none. A thread without memory leaves
    // what it has not begun to the others; once all are done that is std::bad_alloc.
    template <class Work>
    void each_and_next(int64_t count, const Work& work) const {
        if (is_one() || count < 2) {
            for (int64_t i = 0; i < count; i++) work(i, i + 1);
            return;
        }
        struct Job {
            const Work& work;
            int64_t count;
            int64_t num_threads;
            std::atomic<int64_t> num_started{0};
            std::atomic<bool> has_memory{true};
            // By threads: thread t takes t, t + num_threads and so on, and then what others have left.
            std::atomic<int64_t> next[MOST_THREADS];

            void run() {
                const int64_t n = num_threads;
                const int64_t first = num_started.fetch_add(1, std::memory_order_relaxed);
                for (int64_t owner = first; owner < first + n; owner++) {
                    std::atomic<int64_t>& its_next = next[owner % n];
                    // Most are through: to write to all would cost more than their work.
                    if (its_next.load(std::memory_order_relaxed) >= count) continue;
                    for (int64_t i; (i = its_next.fetch_add(n, std::memory_order_relaxed)) < count;)
                        work(i, i + n);
                }
            }
        // All of them, however few shares there are: OpenMP ends the threads that it is not asked for,
        // and makes new ones the next time.
        } job{work, count, std::min(num_threads, MOST_THREADS)};
        for (int64_t i = 0; i < job.num_threads; i++) job.next[i] = i;
        const auto run = [](void* data) {
            Job& job = *static_cast<Job*>(data);
            if (!has_memory_for([&] { job.run(); }))
                job.has_memory.store(false, std::memory_order_relaxed);
        };
        parallel(run, &job, unsigned(job.num_threads), 0);
        if (!job.has_memory) throw std::bad_alloc();
    }
};

}  // namespace tandem
