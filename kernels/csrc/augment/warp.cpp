// The operations of augment.cpp that read neighbours: sharpness and warps.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "augment/canvas.h"

namespace fastsemi {
namespace {

constexpr int kMargin = 4;  // pixels around lines that are shifted, more than the taps and a rounding can reach

// Scratch memory of a thread, kept between images.
uint8_t* scratch(int which, size_t bytes) {
    static thread_local std::vector<uint8_t> memory[2];
    std::vector<uint8_t>& buffer = memory[which];
    if (buffer.size() < bytes) buffer.resize(bytes);
    return buffer.data();
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

void repeat_border(uint8_t* line, int length) {
    uint8_t* last = line + 3 * (static_cast<ptrdiff_t>(length) - 1);
    for (int i = 1; i <= kMargin; ++i) {
        std::memcpy(line - 3 * i, line, 3);
        std::memcpy(last + 3 * i, last, 3);
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

}  // namespace

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

}  // namespace fastsemi
