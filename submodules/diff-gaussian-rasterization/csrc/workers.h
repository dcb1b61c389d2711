// SPDX-License-Identifier: Apache-2.0
// Threads for the CPU backend that help but are never waited for unless they hold work.
//
// OpenMP ends every parallel region with a barrier, so on a busy machine each one costs a scheduler's time slice until
// the slowest thread has been woken: tens of milliseconds for a millisecond of work. Here the caller takes chunks until
// none is left and then waits only for chunks that another thread has begun. A forked child starts threads of its own.
#pragma once

#include <stdint.h>

#include <functional>

namespace dgr {

// Calls fn(0) ... fn(n_chunks - 1), each once, on the caller and up to n_threads - 1 others; returns when all are done.
// fn must not throw.
void run_chunks(int64_t n_chunks, int n_threads, const std::function<void(int64_t)>& fn);

}  // namespace dgr
