// Threads that work through batches of images in the order they were submitted.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "jpeg/jpeg.h"

namespace fastsemi {

// What became of one image.
struct Outcome {
    Status status = Status::failed;
    std::string message = "the operator was closed";
};

// A batch on its way. Everything it points to must live until it is done.
struct Batch {
    struct Item {
        const uint8_t* data = nullptr;  // encoded bytes, or null: read `path`
        size_t size = 0;
        std::string path;
        int pixels = -1;  // or an open file that holds them at `offset`
        int64_t offset = 0;
        Limits limits;
        Record record;
    };
    std::vector<Item> items;
    std::vector<Window> windows;  // [items][views]
    int views = 0, side = 0;
    std::vector<Outcome> outcomes;

    // Guarded by the pool's mutex.
    size_t next = 0, left = 0;
};

// Seconds spent so far, summed over threads.
struct Times {
    double read = 0, decode = 0, resize = 0;
};

class Pool {
public:
    Pool(int threads, const Kernels& kernels, bool use_baseline);
    ~Pool() { close(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    void submit(const std::shared_ptr<Batch>& batch);
    // False when the time is over first.
    bool wait(const Batch& batch, std::chrono::duration<double> timeout);
    // Drops images that no thread has begun, waits for the others and ends the threads.
    void close();
    Times times();
    // In a forked child, which has the object but none of the threads.
    bool foreign() const;

private:
    void work();

    const Kernels& kernels_;
    const bool use_baseline_;
    const int process_;
    std::mutex mutex_;
    std::condition_variable submitted_, done_;
    std::deque<std::shared_ptr<Batch>> queue_;
    std::vector<std::thread> threads_;
    bool closed_ = false;
    Times times_;
};

// Leaks a pool in a forked child: threads that wait in the parent would be waited for in vain.
struct PoolDeleter {
    void operator()(Pool* pool) const;
};

}  // namespace fastsemi
