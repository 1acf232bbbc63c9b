#include "threads/team.h"

#include <unistd.h>

namespace fastsemi {

Team::Team(int threads) : process_(::getpid()) {
    try {
        for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
        close();
        throw;
    }
}

void Team::close() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
    }
    started_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
}

void Team::run(size_t count, const std::function<void(size_t)>& job) {
    const std::lock_guard<std::mutex> turn(callers_);
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        job_ = &job;
        count_ = count;
        next_ = 0;
        error_ = nullptr;
        ++round_;
    }
    if (count > 1) started_.notify_all();
    share();
    // Threads that have not begun find no job: nothing is left for them.
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [&] { return busy_ == 0; });
    job_ = nullptr;
    if (error_) std::rethrow_exception(error_);
}

void Team::share() {
    for (size_t i; (i = next_.fetch_add(1)) < count_;) {
        try {
            (*job_)(i);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
    }
}

void Team::work() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        started_.wait(lock, [&] { return closed_ || round_ != seen; });
        if (closed_) return;
        seen = round_;
        if (!job_) continue;
        ++busy_;
        lock.unlock();
        share();
        lock.lock();
        if (--busy_ == 0) ended_.notify_all();
    }
}

bool Team::foreign() const { return ::getpid() != process_; }

}  // namespace fastsemi
