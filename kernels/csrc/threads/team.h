// Threads that share the items of one job; the caller works too.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fastsemi {

class Team {
public:
    // `threads` with the caller's, so that one thread starts none.
    explicit Team(int threads);
    ~Team() { close(); }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // Calls job(i) for every i below `count` and returns when all are done. An exception of a job is thrown
    // again here, after the others have ended. Callers wait for each other.
    void run(size_t count, const std::function<void(size_t)>& job);
    // In a forked child, which has the object but none of the threads.
    bool foreign() const;

private:
    void close();
    void work();
    void share();

    const int process_;
    std::mutex callers_, mutex_;
    std::condition_variable started_, ended_;
    std::vector<std::thread> threads_;
    const std::function<void(size_t)>* job_ = nullptr;
    std::atomic<size_t> next_{0};
    size_t count_ = 0;
    std::exception_ptr error_;
    uint64_t round_ = 0;
    int busy_ = 0;
    bool closed_ = false;
};

// Leaks a team in a forked child: threads that wait in the parent would be waited for in vain.
struct TeamDeleter {
    void operator()(Team* team) const {
        if (!team->foreign()) delete team;
    }
};

}  // namespace fastsemi
