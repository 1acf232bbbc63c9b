#include "threads/pool.h"

#include <unistd.h>

#include <exception>
#include <utility>

#include "threads/file.h"
#include "jpeg/pixels.h"

namespace fastsemi {
namespace {

// What a thread keeps between images.
struct Worker {
    JpegDecoder decoder;
    std::vector<uint8_t> file;
    Times times;  // of the last image

    Outcome run(const Batch& batch, size_t index) {
        const Batch::Item& item = batch.items[index];
        const uint8_t* data = item.data;
        size_t size = item.size;
        auto since = [at = std::chrono::steady_clock::now()]() mutable {
            const auto before = at;
            at = std::chrono::steady_clock::now();
            return std::chrono::duration<double>(at - before).count();
        };
        times = {};
        try {
            if (item.pixels >= 0) {
                std::string wrong = read_pixels(item.pixels, item.offset, item.limits,
                                                batch.windows.data() + index * batch.views, batch.views, batch.side,
                                                decoder.views());
                times.read = since();
                if (!wrong.empty()) return {Status::failed, std::move(wrong)};
                decoder.views().finish();
                times.resize = since();
                return {Status::ok, {}};
            }
            if (!data) {
                const std::string wrong = read_file(item.path, file, size);
                times.read = since();
                if (!wrong.empty()) return {Status::failed, wrong};
                data = file.data();
            }
            const Status status = decoder.decode(data, size, item.limits, batch.windows.data() + index * batch.views,
                                                 batch.views, batch.side, item.record);
            times.resize = decoder.resize_seconds();
            times.decode = since() - times.resize;
            return {status, status == Status::failed ? decoder.message() : std::string()};
        } catch (const std::exception& error) {
            return {Status::failed, error.what()};
        }
    }
};

}  // namespace

Pool::Pool(int threads, const Kernels& kernels, bool use_baseline)
    : kernels_(kernels), use_baseline_(use_baseline), process_(::getpid()) {
    try {
        for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
        close();
        throw;
    }
}

void Pool::submit(const std::shared_ptr<Batch>& batch) {
    batch->outcomes.resize(batch->items.size());
    batch->left = batch->items.size();
    if (batch->left == 0) return;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (closed_) {
            batch->left = 0;
            return;
        }
        queue_.push_back(batch);
    }
    submitted_.notify_all();
}

bool Pool::wait(const Batch& batch, std::chrono::duration<double> timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    return done_.wait_for(lock, timeout, [&] { return batch.left == 0; });
}

void Pool::work() {
    Worker worker{JpegDecoder(kernels_), {}, {}};
    worker.decoder.use_baseline = use_baseline_;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        submitted_.wait(lock, [&] { return closed_ || !queue_.empty(); });
        if (closed_) return;
        const std::shared_ptr<Batch> batch = queue_.front();
        const size_t index = batch->next++;
        if (batch->next == batch->items.size()) queue_.pop_front();
        lock.unlock();
        Outcome outcome = worker.run(*batch, index);
        lock.lock();
        batch->outcomes[index] = std::move(outcome);
        times_.read += worker.times.read;
        times_.decode += worker.times.decode;
        times_.resize += worker.times.resize;
        if (--batch->left == 0) done_.notify_all();
    }
}

Times Pool::times() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return times_;
}

void Pool::close() {
    if (foreign()) return;
    std::vector<std::thread> threads;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
        for (const auto& batch : queue_) {
            batch->left -= batch->items.size() - batch->next;
            batch->next = batch->items.size();
        }
        queue_.clear();
        threads.swap(threads_);
    }
    submitted_.notify_all();
    done_.notify_all();
    for (std::thread& thread : threads) thread.join();
}

bool Pool::foreign() const { return ::getpid() != process_; }

void PoolDeleter::operator()(Pool* pool) const {
    if (!pool->foreign()) delete pool;
}

}  // namespace fastsemi
