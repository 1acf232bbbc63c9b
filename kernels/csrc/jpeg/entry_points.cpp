#include "jpeg/entry_points.h"

#include <cstring>

namespace fastsemi {
namespace {

// A point in 64 bits: the bit's number, then a prediction in each 12. A baseline DC coefficient of 8-bit samples
// needs 12.
constexpr int kPredictionBits = 12;
constexpr uint64_t kMaxBit = (uint64_t{1} << (64 - 3 * kPredictionBits)) - 1;
constexpr int kMaxPrediction = (1 << (kPredictionBits - 1)) - 1;

// Units between two points, at least: fewer are decoded faster than a jump over them is worth.
constexpr int kMinSpacing = 4;

// The low bits of the check say how many points there are.
constexpr uint64_t kCountMask = 0xffff;
constexpr size_t kHead = 2;

constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;

uint64_t mix(uint64_t state, uint64_t word) {
    state = (state ^ word) * kOdd;
    return state << 29 | state >> 35;
}

uint64_t word_at(const uint8_t* data) {
    uint64_t word;
    std::memcpy(&word, data, sizeof word);
    return word;
}

// A hash of all bytes, in four lanes, as one alone would wait for its multiplications.
uint64_t hash(const uint8_t* data, size_t size) {
    uint64_t a = size, b = 1, c = 2, d = 3;
    const auto take = [&](const uint8_t* at) {
        a = mix(a, word_at(at));
        b = mix(b, word_at(at + 8));
        c = mix(c, word_at(at + 16));
        d = mix(d, word_at(at + 24));
    };
    for (; size >= 32; data += 32, size -= 32) take(data);
    uint8_t rest[32] = {};
    std::memcpy(rest, data, size);
    take(rest);
    const uint64_t all = mix(mix(mix(a, b), c), d);
    return all ^ all >> 32;
}

}  // namespace

// Over the key and the points.
uint64_t EntryPoints::check() const {
    uint64_t state = static_cast<uint64_t>(known_);
    for (int i = 0; i < known_; ++i) state = mix(state, words_[kHead + i]);
    state = mix(state, words_[0]);
    return ((state ^ state >> 32) & ~kCountMask) | static_cast<uint64_t>(known_);
}

void EntryPoints::open(Record record, const uint8_t* data, size_t size) {
    record_ = record;
    known_ = saved_ = 0;
    if (record.count <= kHead) return;
    words_.resize(record.count);
    for (size_t i = 0; i < record.count; ++i) words_[i] = __atomic_load_n(record.words + i, __ATOMIC_RELAXED);
    const uint64_t key = hash(data, size), count = words_[1] & kCountMask;
    const bool same = words_[0] == key && count <= record.count - kHead;
    words_[0] = key;
    known_ = same ? static_cast<int>(count) : 0;
    if (check() != words_[1]) known_ = 0;
    saved_ = known_;
}

void EntryPoints::begin(int units) {
    const bool kept = record_.count > kHead;
    const int most = kept ? static_cast<int>(std::min<uint64_t>(record_.count - kHead, kCountMask)) : 0;
    spacing_ = kept ? std::max(kMinSpacing, units / (most + 1) + 1) : INT_MAX;
    next_ = known_ < most ? (known_ + 1) * spacing_ : INT_MAX;
}

EntryPoint EntryPoints::at(int number) const {
    const uint64_t word = words_[kHead + static_cast<size_t>(number) - 1];
    EntryPoint point{word >> 3 * kPredictionBits, {}};
    for (int i = 0; i < 3; ++i) {
        const auto up = static_cast<int64_t>(word << (64 - kPredictionBits * (i + 1)));
        point.prediction[i] = static_cast<int>(up >> (64 - kPredictionBits));
    }
    return point;
}

void EntryPoints::note(const EntryPoint& point) {
    uint64_t word = point.bit << 3 * kPredictionBits;
    bool fits = point.bit <= kMaxBit;
    for (int i = 0; i < 3; ++i) {
        const int value = point.prediction[i];
        fits = fits && value >= -kMaxPrediction - 1 && value <= kMaxPrediction;
        word |= (static_cast<uint64_t>(value) & ((1 << kPredictionBits) - 1)) << kPredictionBits * i;
    }
    const size_t index = kHead + static_cast<size_t>(known_);
    if (!fits) {
        next_ = INT_MAX;
        return;
    }
    words_[index] = word;
    next_ = index + 1 < words_.size() ? next_ + spacing_ : INT_MAX;
    ++known_;
}

void EntryPoints::save() const {
    if (known_ == saved_) return;
    for (size_t i = 0; i < kHead + static_cast<size_t>(known_); ++i) {
        __atomic_store_n(record_.words + i, i == 1 ? check() : words_[i], __ATOMIC_RELAXED);
    }
}

}  // namespace fastsemi
