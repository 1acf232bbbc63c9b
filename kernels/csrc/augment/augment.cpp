#include "augment/augment.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "augment/canvas.h"

namespace fastsemi {
namespace {

constexpr int kPart = 1024;  // pixels looked up at a time where another loop follows: they stay in the L1 cache

uint8_t truncate(float value) { return static_cast<uint8_t>(std::clamp(value, 0.0f, 255.0f)); }

}  // namespace

void Canvas::flush() {
    if (waits_) lookup(pixels_, count_, pixels_);
    waits_ = per_channel_ = false;
}

void Canvas::apply(AugmentOp op, float arg) {
    switch (op) {
        case AugmentOp::none:
        case AugmentOp::count: return;
        case AugmentOp::autocontrast: return autocontrast();
        case AugmentOp::equalize: return equalize();
        case AugmentOp::invert: return append([](int v) { return static_cast<uint8_t>(255 - v); });
        case AugmentOp::posterize: {
            const int mask = 0xff00 >> static_cast<int>(arg);
            return append([&](int v) { return static_cast<uint8_t>(v & mask); });
        }
        case AugmentOp::solarize: {
            const int threshold = static_cast<int>(std::ceil(arg));
            return append([&](int v) { return static_cast<uint8_t>(v < threshold ? v : 255 - v); });
        }
        case AugmentOp::solarize_add: {
            const int amount = static_cast<int>(arg);
            return append([&](int v) { return static_cast<uint8_t>(v < 128 ? v + amount : v); });
        }
        case AugmentOp::brightness: return append([&](int v) { return truncate(static_cast<float>(v) * arg); });
        case AugmentOp::contrast: return contrast(arg);
        case AugmentOp::color: return saturate(arg);
        default: break;
    }
    flush();
    switch (op) {
        case AugmentOp::sharpness: return sharpness(arg);
        case AugmentOp::rotate: return rotate(arg);
        case AugmentOp::shear_x: return shift_rows(arg, 0);
        case AugmentOp::translate_x: return shift_rows(0, static_cast<double>(arg) * width_);
        case AugmentOp::shear_y: return shift_columns(arg);
        default: return move_rows(static_cast<double>(arg) * height_);
    }
}

// Counts of the levels that the image will have, without applying what waits.
void Canvas::histogram(uint32_t (*counts)[256]) const {
    // Two of each, because an addition to the count of the pixel before would wait for that.
    uint32_t found[2][3][256] = {};
    int i = 0;
    for (; i + 2 <= count_; i += 2) {
        const uint8_t* p = pixels_ + 3 * static_cast<size_t>(i);
        for (int c = 0; c < 3; ++c) {
            ++found[0][c][p[c]];
            ++found[1][c][p[3 + c]];
        }
    }
    if (i < count_) {
        for (int c = 0; c < 3; ++c) ++found[0][c][pixels_[3 * static_cast<size_t>(i) + c]];
    }
    std::memset(counts, 0, sizeof found[0]);
    for (int c = 0; c < 3; ++c) {
        const uint8_t* table = table_[per_channel_ ? c : 0];
        for (int v = 0; v < 256; ++v) counts[c][waits_ ? table[v] : v] += found[0][c][v] + found[1][c][v];
    }
}

void Canvas::autocontrast() {
    uint32_t counts[3][256];
    histogram(counts);
    double scale[3], offset[3];
    for (int c = 0; c < 3; ++c) {
        int low = 0, high = 255;
        while (low < 255 && !counts[c][low]) ++low;
        while (high > 0 && !counts[c][high]) --high;
        scale[c] = high > low ? 255.0 / (high - low) : 1.0;
        offset[c] = high > low ? -low * scale[c] : 0.0;
    }
    append_channels([&](int c, int v) { return static_cast<uint8_t>(std::clamp(v * scale[c] + offset[c], 0.0, 255.0)); });
}

void Canvas::equalize() {
    uint32_t counts[3][256];
    histogram(counts);
    uint8_t table[3][256];
    for (int c = 0; c < 3; ++c) {
        int brightest = 255;
        while (brightest > 0 && !counts[c][brightest]) --brightest;
        const int64_t step = (count_ - static_cast<int64_t>(counts[c][brightest])) / 255;
        int64_t below = 0;
        for (int v = 0; v < 256; ++v) {
            table[c][v] = static_cast<uint8_t>(step > 0 ? std::min<int64_t>((below + step / 2) / step, 255) : v);
            below += counts[c][v];
        }
    }
    append_channels([&](int c, int v) { return table[c][v]; });
}

void Canvas::contrast(float factor) {
    int64_t total = 0;
    for (int start = 0; start < count_; start += kPart) {
        const int n = std::min(kPart, count_ - start);
        uint8_t* part = pixels_ + 3 * static_cast<size_t>(start);
        if (waits_) lookup(part, n, part);
        total += kernels_.sum_grey(part, n);
    }
    waits_ = per_channel_ = false;
    const float mean = static_cast<float>((2 * total + count_) / (2 * static_cast<int64_t>(count_)));
    append([&](int v) { return truncate((static_cast<float>(v) - mean) * factor + mean); });
}

void Canvas::saturate(float factor) {
    uint8_t looked_up[3 * kPart];
    for (int start = 0; start < count_; start += kPart) {
        const int n = std::min(kPart, count_ - start);
        uint8_t* part = pixels_ + 3 * static_cast<size_t>(start);
        if (waits_) lookup(part, n, looked_up);
        kernels_.saturate(waits_ ? looked_up : part, n, factor, part);
    }
    waits_ = per_channel_ = false;
}

const char* check_step(int64_t op, float arg) {
    if (op < -1 || op >= static_cast<int64_t>(AugmentOp::count)) return "an operation is not one of -1 to 14";
    if (op >= 0 && !std::isfinite(arg)) return "an argument is not finite";
    switch (static_cast<AugmentOp>(op)) {
        case AugmentOp::posterize: return arg >= 0 && arg <= 8 ? nullptr : "posterize keeps 0 to 8 bits";
        case AugmentOp::solarize: return arg >= 0 && arg <= 256 ? nullptr : "the threshold of solarize is 0 to 256";
        case AugmentOp::solarize_add: return arg >= 0 && arg <= 128 ? nullptr : "solarize_add adds 0 to 128";
        default: return nullptr;
    }
}

void augment_image(uint8_t* pixels, int height, int width, const AugmentStep* steps, int count, const uint8_t* fill,
                   const AugmentKernels& kernels) {
    Canvas canvas(pixels, height, width, fill, kernels);
    for (int i = 0; i < count; ++i) canvas.apply(steps[i].op, steps[i].arg);
    canvas.flush();
}

std::vector<const AugmentKernels*> available_augment_kernels() {
    std::vector<const AugmentKernels*> found;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (fused && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vbmi")) {
        found.push_back(&kAvx512Augment);
    }
    if (fused) found.push_back(&kAvx2Augment);
    if (__builtin_cpu_supports("sse4.1")) found.push_back(&kSse41Augment);
#endif
    found.push_back(&kPortableAugment);
    return found;
}

}  // namespace fastsemi
