#include "filter.h"

#include <algorithm>
#include <cmath>

namespace fastsemi {
namespace {

// Keys' cubic convolution kernel with a = -0.5, without branches so that compilers vectorise the loop over taps.
inline float cubic(float x) {
    x = std::fabs(x);
    const float near = (1.5f * x - 2.5f) * x * x + 1.0f;
    const float far = ((-0.5f * x + 2.5f) * x - 4.0f) * x + 2.0f;
    const float value = x < 1.0f ? near : far;
    return x < 2.0f ? value : 0.0f;
}

// Weights on pixels: pixel[o * taps + t] belongs to pixel pixel_start[o] + t. Returns taps, a multiple of 4.
int pixel_weights(int origin, int length, int count, FilterScratch& s) {
    const double ratio = static_cast<double>(length) / count;
    const double stretch = std::max(ratio, 1.0), support = 2.0 * stretch;
    const int taps = (static_cast<int>(std::ceil(2.0 * support)) + 1 + 3) & ~3;
    const float inverse = static_cast<float>(1.0 / stretch);
    s.pixel.resize(static_cast<size_t>(count) * taps);
    s.pixel_start.resize(count);
    for (int o = 0; o < count; ++o) {
        const double center = (o + 0.5) * ratio;
        const int begin = std::max(0, static_cast<int>(center - support + 0.5));
        const int used = std::min(length, static_cast<int>(center + support + 0.5)) - begin;
        const float offset = static_cast<float>((begin - center + 0.5) / stretch);
        float* w = &s.pixel[static_cast<size_t>(o) * taps];
        float sum = 0.0f;
        for (int t = 0; t < taps; ++t) w[t] = cubic(offset + static_cast<float>(t) * inverse);
        for (int t = used; t < taps; ++t) w[t] = 0.0f;
        for (int t = 0; t < taps; ++t) sum += w[t];
        const float norm = 1.0f / sum;
        for (int t = 0; t < taps; ++t) w[t] *= norm;
        s.pixel_start[o] = origin + begin;
    }
    return taps;
}

// Rewrites pixel weights for samples that cover `factor` pixels each. Returns the new number of taps.
int to_samples(const Grid& grid, int count, int pixel_taps, FilterScratch& s) {
    const bool triangle = grid.upsampling == Upsampling::triangle;
    const int taps = triangle ? pixel_taps / 2 + 2 : (pixel_taps + grid.factor - 2) / grid.factor + 1;
    s.sample.assign(static_cast<size_t>(count) * taps, 0.0f);
    s.sample_start.resize(count);
    for (int o = 0; o < count; ++o) {
        const float* w = &s.pixel[static_cast<size_t>(o) * pixel_taps];
        float* out = &s.sample[static_cast<size_t>(o) * taps];
        const int pixel = s.pixel_start[o];
        const int begin = triangle ? std::max(0, (pixel - 1) >> 1) : pixel / grid.factor;
        s.sample_start[o] = begin;
        for (int t = 0; t < pixel_taps; ++t) {
            if (w[t] == 0.0f) continue;
            const int at = (pixel + t) / grid.factor;
            if (!triangle) {
                out[at - begin] += w[t];
                continue;
            }
            // A pixel is 3/4 of its own sample and 1/4 of the one on its side, replicated at the image's border.
            const int side = std::clamp((pixel + t) & 1 ? at + 1 : at - 1, 0, grid.size - 1);
            out[at - begin] += 0.75f * w[t];
            out[side - begin] += 0.25f * w[t];
        }
    }
    return taps;
}

// 8 samples from the n coefficients that a block decoded to n samples stands for: row r, column m is the part
// of sample m in sample r when all other coefficients are zero.
std::vector<float> shrink_basis(int n) {
    std::vector<float> basis(8 * static_cast<size_t>(n));
    const double pi = 3.14159265358979323846;
    for (int r = 0; r < 8; ++r) {
        for (int m = 0; m < n; ++m) {
            double sum = 1.0;
            for (int k = 1; k < n; ++k) {
                sum += 2.0 * std::cos((2 * r + 1) * k * pi / 16) * std::cos((2 * m + 1) * k * pi / (2 * n));
            }
            basis[static_cast<size_t>(r) * n + m] = static_cast<float>(sum / n);
        }
    }
    return basis;
}

// Rewrites sample weights for blocks decoded to n = 8 / shrink samples. Returns the new number of taps.
int to_shrunk(int n, int count, int sample_taps, FilterScratch& s) {
    const std::vector<float> basis = shrink_basis(n);
    const int taps = ((sample_taps + 6) / 8 + 1) * n;
    s.fine.assign(static_cast<size_t>(count) * taps, 0.0f);
    s.fine_start.resize(count);
    for (int o = 0; o < count; ++o) {
        const float* w = &s.sample[static_cast<size_t>(o) * sample_taps];
        float* out = &s.fine[static_cast<size_t>(o) * taps];
        const int first_block = s.sample_start[o] / 8;
        s.fine_start[o] = first_block * n;
        for (int t = 0; t < sample_taps; ++t) {
            if (w[t] == 0.0f) continue;
            const int at = s.sample_start[o] + t, block = at / 8 - first_block;
            const float* row = &basis[static_cast<size_t>(at % 8) * n];
            for (int m = 0; m < n; ++m) out[block * n + m] += w[t] * row[m];
        }
    }
    return taps;
}

// Rounds to integers whose sum is exactly one, and drops columns of zeros.
void quantise(int count, int taps, const std::vector<float>& weight, const std::vector<int32_t>& start, Axis& axis) {
    constexpr int one = 1 << kWeightBits;
    int used = 1;
    for (int o = 0; o < count; ++o) {
        const float* w = &weight[static_cast<size_t>(o) * taps];
        int n = taps;
        while (n > used && w[n - 1] == 0.0f) --n;
        used = std::max(used, n);
    }
    axis.count = count;
    axis.taps = (used + 1) & ~1;
    axis.start = start;
    axis.weight.assign(static_cast<size_t>(count) * axis.taps, 0);
    axis.first = start[0];
    axis.last = 0;
    for (int o = 0; o < count; ++o) {
        const float* w = &weight[static_cast<size_t>(o) * taps];
        int16_t* q = &axis.weight[static_cast<size_t>(o) * axis.taps];
        int sum = 0, largest = 0, end = 1;
        for (int t = 0; t < used; ++t) {
            const int value = static_cast<int>(std::lrintf(w[t] * one));
            q[t] = static_cast<int16_t>(std::clamp(value, -32768, 32767));
            sum += q[t];
            if (q[t] > q[largest]) largest = t;
            if (w[t] != 0.0f) end = t + 1;
        }
        q[largest] = static_cast<int16_t>(std::clamp(q[largest] + one - sum, -32768, 32767));
        axis.first = std::min(axis.first, start[o]);
        axis.last = std::max(axis.last, start[o] + end);
    }
}

}  // namespace

void build_axis(int origin, int length, int count, const Grid& grid, FilterScratch& scratch, Axis& axis) {
    int taps = pixel_weights(origin, length, count, scratch);
    if (grid.factor > 1) {
        taps = to_samples(grid, count, taps, scratch);
    } else if (grid.shrink > 1) {
        scratch.sample.swap(scratch.pixel);
        scratch.sample_start.swap(scratch.pixel_start);
    }
    if (grid.shrink > 1) {
        taps = to_shrunk(8 / grid.shrink, count, taps, scratch);
        quantise(count, taps, scratch.fine, scratch.fine_start, axis);
    } else if (grid.factor > 1) {
        quantise(count, taps, scratch.sample, scratch.sample_start, axis);
    } else {
        quantise(count, taps, scratch.pixel, scratch.pixel_start, axis);
    }
}

}  // namespace fastsemi
