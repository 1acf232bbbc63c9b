#include "augment.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace fastsemi {
namespace {

constexpr int kPart = 1024;  // pixels looked up at a time where another loop follows: they stay in the L1 cache
constexpr int kMargin = 4;   // pixels around lines that are shifted, more than the taps and a rounding can reach

uint8_t truncate(float value) { return static_cast<uint8_t>(std::clamp(value, 0.0f, 255.0f)); }

// Scratch memory of a thread, kept between images.
uint8_t* scratch(int which, size_t bytes) {
    static thread_local std::vector<uint8_t> memory[2];
    std::vector<uint8_t>& buffer = memory[which];
    if (buffer.size() < bytes) buffer.resize(bytes);
    return buffer.data();
}

// An image and the pointwise operations that wait to be applied to it: any number of them are one lookup.
class Canvas {
public:
    Canvas(uint8_t* pixels, int height, int width, const uint8_t* fill, const AugmentKernels& kernels)
        : pixels_(pixels), height_(height), width_(width), count_(height * width), fill_(fill), kernels_(kernels) {}

    void apply(AugmentOp op, float arg);
    // Applies what waits.
    void flush();

private:
    // Appends a function of a byte to all channels, or of a channel and a byte.
    template <class F>
    void append(F&& f) {
        for (int c = 0; c < (per_channel_ ? 3 : 1); ++c) {
            for (int v = 0; v < 256; ++v) table_[c][v] = f(waits_ ? table_[c][v] : v);
        }
        waits_ = true;
    }
    template <class F>
    void append_channels(F&& f) {
        for (int c = 2; c >= 0; --c) {
            const uint8_t* before = table_[per_channel_ ? c : 0];
            for (int v = 0; v < 256; ++v) table_[c][v] = f(c, waits_ ? before[v] : v);
        }
        waits_ = per_channel_ = true;
    }
    void lookup(const uint8_t* in, int count, uint8_t* out) const {
        if (per_channel_) {
            kernels_.lookup_channels(in, table_[0], count, out);
        } else {
            kernels_.lookup(in, table_[0], 3 * count, out);
        }
    }
    void histogram(uint32_t (*counts)[256]) const;
    void autocontrast();
    void equalize();
    void contrast(float factor);
    void saturate(float factor);
    void sharpness(float factor);
    void rotate(double degrees);
    void shift_rows(double shear, double offset);
    void shift_columns(double shear);
    void move_rows(double offset);
    void shift_line(const uint8_t* line, int length, double offset, uint8_t* out) const;
    void fill(uint8_t* out, int begin, int end) const {
        for (int i = begin; i < end; ++i) std::memcpy(out + 3 * i, fill_, 3);
    }

    uint8_t* const pixels_;
    const int height_, width_, count_;
    const uint8_t* const fill_;
    const AugmentKernels& kernels_;
    bool waits_ = false, per_channel_ = false;
    uint8_t table_[3][256];
};

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

void Canvas::sharpness(float factor) {
    if (height_ < 3 || width_ < 3) return;
    const size_t pitch = 3 * static_cast<size_t>(width_);
    uint8_t* old = scratch(0, 2 * pitch);  // rows y - 1 and y as they were, taking turns
    std::memcpy(old, pixels_, pitch);
    for (int y = 1; y < height_ - 1; ++y) {
        uint8_t *row = pixels_ + y * pitch, *above = old + (y - 1) % 2 * pitch, *here = old + y % 2 * pitch;
        std::memcpy(here, row, pitch);
        const uint8_t* rows[3] = {above + 3, here + 3, row + pitch + 3};
        kernels_.sharpen(rows, static_cast<int>(pitch) - 6, factor, row + 3);
    }
}

void Canvas::rotate(double degrees) {
    double angle = std::fmod(degrees, 360.0);
    angle = (angle < 0 ? angle + 360.0 : angle) * (-3.14159265358979323846 / 180);
    // Multiples of 90 degrees become exact permutations of pixels because of the rounding, as in Pillow.
    const double cos = std::nearbyint(std::cos(angle) * 1e15) / 1e15, sin = std::nearbyint(std::sin(angle) * 1e15) / 1e15;
    const double centre_x = width_ / 2.0, centre_y = height_ / 2.0;
    Rotation r;
    r.width = width_;
    r.height = height_;
    r.cos = cos;
    r.sin = sin;
    r.shift_x = cos * -centre_x + sin * -centre_y + centre_x;
    r.shift_y = -sin * -centre_x + cos * -centre_y + centre_y;
    std::memcpy(r.fill, fill_, 3);
    r.pitch = 4 * (static_cast<ptrdiff_t>(width_) + 4);
    uint8_t* wide = scratch(0, static_cast<size_t>(r.pitch) * (height_ + 4));
    r.pixels = wide;
    for (int y = 0; y < height_; ++y) {
        const uint8_t* in = pixels_ + 3 * static_cast<size_t>(y) * width_;
        uint8_t* out = wide + (y + 2) * r.pitch + 8;
        for (int x = 0; x < width_ - 1; ++x) std::memcpy(out + 4 * x, in + 3 * x, 4);  // the fourth is never used
        uint8_t* last = out + 4 * (static_cast<ptrdiff_t>(width_) - 1);
        std::memcpy(last, in + 3 * (static_cast<ptrdiff_t>(width_) - 1), 3);
        last[3] = 0;
        for (int i = 1; i <= 2; ++i) {
            std::memcpy(out - 4 * i, out, 4);
            std::memcpy(last + 4 * i, last, 4);
        }
    }
    for (int i = 0; i < 2; ++i) {
        std::memcpy(wide + i * r.pitch, wide + 2 * r.pitch, r.pitch);
        std::memcpy(wide + (height_ + 2 + i) * r.pitch, wide + (height_ + 1) * r.pitch, r.pitch);
    }
    for (int y = 0; y < height_; ++y) kernels_.rotate_row(r, y, pixels_ + 3 * static_cast<size_t>(y) * width_);
}

// First and one past the last index whose position, offset + index + 0.5, lies in [0, length).
void inside(double offset, int length, int* begin, int* end) {
    const double size = length;
    auto position = [&](int i) { return offset + (i + 0.5); };
    int a = static_cast<int>(std::clamp(-offset - 0.5, 0.0, size)), b = static_cast<int>(std::clamp(size - offset, 0.0, size));
    while (a > 0 && position(a - 1) >= 0) --a;
    while (a < length && position(a) < 0) ++a;
    while (b > 0 && position(b - 1) >= size) --b;
    while (b < length && position(b) < size) ++b;
    *begin = a;
    *end = std::max(a, b);
}

// Samples a line, its border repeated kMargin times around it, at index + offset.
void Canvas::shift_line(const uint8_t* line, int length, double offset, uint8_t* out) const {
    int begin, end;
    inside(offset, length, &begin, &end);
    fill(out, 0, begin);
    fill(out, end, length);
    if (begin == end) return;
    const double whole = std::floor(offset);
    const float fraction = static_cast<float>(offset - whole);
    const uint8_t* in = line + 3 * (begin + static_cast<ptrdiff_t>(whole));
    const size_t bytes = 3 * static_cast<size_t>(end - begin);
    if (fraction == 0) {
        std::memcpy(out + 3 * begin, in, bytes);
    } else {
        const uint8_t* taps[4] = {in - 3, in, in + 3, in + 6};
        kernels_.shift(taps, static_cast<int>(bytes), fraction, out + 3 * begin);
    }
}

void repeat_border(uint8_t* line, int length) {
    uint8_t* last = line + 3 * (static_cast<ptrdiff_t>(length) - 1);
    for (int i = 1; i <= kMargin; ++i) {
        std::memcpy(line - 3 * i, line, 3);
        std::memcpy(last + 3 * i, last, 3);
    }
}

// Shears and translations along an axis leave the other coordinate at pixel centres: one interpolation is enough.
void Canvas::shift_rows(double shear, double offset) {
    uint8_t* line = scratch(0, 3 * (static_cast<size_t>(width_) + 2 * kMargin)) + 3 * kMargin;
    for (int y = 0; y < height_; ++y) {
        uint8_t* row = pixels_ + 3 * static_cast<size_t>(y) * width_;
        std::memcpy(line, row, 3 * static_cast<size_t>(width_));
        repeat_border(line, width_);
        shift_line(line, width_, shear * (y + 0.5) + offset, row);
    }
}

// Columns of `in`, [height][in_pitch], become lines of `out`, [width][out_pitch].
void transpose(const uint8_t* in, int height, int width, size_t in_pitch, uint8_t* out, size_t out_pitch) {
    constexpr int kBlock = 16;
    for (int start = 0; start < width; start += kBlock) {
        const int end = std::min(width, start + kBlock);
        for (int y = 0; y < height; ++y) {
            const uint8_t* from = in + y * in_pitch;
            for (int x = start; x < end; ++x) std::memcpy(out + x * out_pitch + 3 * y, from + 3 * x, 3);
        }
    }
}

void Canvas::shift_columns(double shear) {
    const size_t line_pitch = 3 * (static_cast<size_t>(height_) + 2 * kMargin), row_pitch = 3 * static_cast<size_t>(width_);
    const size_t out_pitch = 3 * static_cast<size_t>(height_);
    uint8_t *lines = scratch(0, line_pitch * width_) + 3 * kMargin, *shifted = scratch(1, out_pitch * width_);
    transpose(pixels_, height_, width_, row_pitch, lines, line_pitch);
    for (int x = 0; x < width_; ++x) {
        repeat_border(lines + x * line_pitch, height_);
        shift_line(lines + x * line_pitch, height_, shear * (x + 0.5), shifted + x * out_pitch);
    }
    transpose(shifted, width_, height_, out_pitch, pixels_, row_pitch);
}

void Canvas::move_rows(double offset) {
    int begin, end;
    inside(offset, height_, &begin, &end);
    const size_t pitch = 3 * static_cast<size_t>(width_);
    uint8_t* old = scratch(0, pitch * height_);
    std::memcpy(old, pixels_, pitch * height_);
    fill(pixels_, 0, begin * width_);
    fill(pixels_, end * width_, count_);
    if (begin == end) return;
    const double whole = std::floor(offset);
    const float fraction = static_cast<float>(offset - whole);
    for (int y = begin; y < end; ++y) {
        const uint8_t* taps[4];
        for (int k = 0; k < 4; ++k) {
            taps[k] = old + pitch * std::clamp(y + static_cast<int>(whole) + k - 1, 0, height_ - 1);
        }
        if (fraction == 0) {
            std::memcpy(pixels_ + y * pitch, taps[1], pitch);
        } else {
            kernels_.shift(taps, static_cast<int>(pitch), fraction, pixels_ + y * pitch);
        }
    }
}

}  // namespace

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
