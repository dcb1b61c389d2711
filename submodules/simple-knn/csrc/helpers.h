// SPDX-License-Identifier: Apache-2.0
// Threads for one call that help but are never waited for unless they hold work.
//
// OpenMP ends every parallel region with a barrier, which on a busy machine costs a scheduler's time slice. Here the
// caller takes chunks until none is left and then waits only for chunks that another thread has begun.
#pragma once

#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

// Calls fn(0) ... fn(n_chunks - 1), each once, on the caller and up to n_threads - 1 others; returns when all are done.
// fn must not throw.
inline void run_chunks(int64_t n_chunks, int n_threads, const std::function<void(int64_t)>& fn) {
    struct Job {  // a helper that comes late finds no chunk left and touches nothing of the caller's
        std::atomic<int64_t> next{0}, done{0};
        std::mutex lock;
        std::condition_variable finished;
    };
    const auto job = std::make_shared<Job>();
    const auto work = [job, n_chunks, &fn] {
        for (int64_t i = job->next++; i < n_chunks; i = job->next++) {
            fn(i);
            if (++job->done < n_chunks) continue;
            std::lock_guard<std::mutex> guard(job->lock);
            job->finished.notify_all();
        }
    };
    try {
        for (int k = 1; k < n_threads && k < n_chunks; ++k) std::thread(work).detach();
    } catch (const std::system_error&) {  // no more threads to be had: fewer help
    }
    work();
    std::unique_lock<std::mutex> guard(job->lock);
    job->finished.wait(guard, [&] { return job->done == n_chunks; });
}
