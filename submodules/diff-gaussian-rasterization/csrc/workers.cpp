// SPDX-License-Identifier: Apache-2.0
#include "workers.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace dgr {
namespace {

// One call of run_chunks. A helper that comes late finds no chunk left and touches nothing of the caller's.
struct Job {
    const std::function<void(int64_t)>* fn;
    int64_t n_chunks;
    int free_seats;  // guarded by the crew's lock
    std::atomic<int64_t> next{0}, done{0};
    std::mutex lock;
    std::condition_variable finished;

    void work() {
        for (int64_t i = next++; i < n_chunks; i = next++) {
            (*fn)(i);
            if (++done == n_chunks) {
                std::lock_guard<std::mutex> guard(lock);
                finished.notify_all();
            }
        }
    }
    void wait() {
        std::unique_lock<std::mutex> guard(lock);
        finished.wait(guard, [this] { return done == n_chunks; });
    }
};

class Crew {
  public:
    explicit Crew(pid_t process) : process_(process) {}
    bool belongs_to(pid_t process) const { return process_ == process; }

    void run(int64_t n_chunks, int n_threads, const std::function<void(int64_t)>& fn) {
        auto job = std::make_shared<Job>();
        job->fn = &fn;
        job->n_chunks = n_chunks;
        job->free_seats = n_threads - 1;
        {
            std::lock_guard<std::mutex> guard(lock_);
            hire(n_threads - 1);
            jobs_.push_back(job);
        }
        for (int i = 1; i < n_threads; ++i) wake_.notify_one();
        job->work();
        job->wait();
        std::lock_guard<std::mutex> guard(lock_);
        const auto at = std::find(jobs_.begin(), jobs_.end(), job);
        if (at != jobs_.end()) jobs_.erase(at);
    }

  private:
    void hire(int n_helpers) {
        try {
            for (; n_helpers_ < n_helpers; ++n_helpers_) std::thread([this] { help(); }).detach();
        } catch (const std::system_error&) {  // no more threads to be had: fewer help
        }
    }

    void help() {
        std::unique_lock<std::mutex> guard(lock_);
        for (;;) {
            wake_.wait(guard, [this] { return !jobs_.empty(); });
            const std::shared_ptr<Job> job = jobs_.front();
            if (--job->free_seats <= 0) jobs_.pop_front();
            guard.unlock();
            job->work();
            guard.lock();
        }
    }

    const pid_t process_;
    std::mutex lock_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Job>> jobs_;
    int n_helpers_ = 0;
};

// Never destroyed, since its threads sleep on it until the process ends.
Crew& crew() {
    static std::atomic<Crew*> current{nullptr};
    const pid_t process = getpid();
    Crew* c = current.load();
    while (!c || !c->belongs_to(process)) {
        Crew* fresh = new Crew(process);
        if (current.compare_exchange_strong(c, fresh)) return *fresh;
        delete fresh;
    }
    return *c;
}

}  // namespace

void run_chunks(int64_t n_chunks, int n_threads, const std::function<void(int64_t)>& fn) {
    if (n_threads <= 1 || n_chunks <= 1) {
        for (int64_t i = 0; i < n_chunks; ++i) fn(i);
        return;
    }
    crew().run(n_chunks, (int)std::min<int64_t>(n_threads, n_chunks), fn);
}

}  // namespace dgr
