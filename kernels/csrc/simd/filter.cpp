#include "simd/filter.h"

#include <algorithm>
#include <cmath>

// Compiled once for each instruction set that a caller has.
#define FASTSEMI_INLINE __attribute__((always_inline)) inline

namespace fastsemi {
namespace {

using Stage = FilterScratch::Stage;

// Keys' cubic convolution kernel with a = -0.5, without branches so that loops over it vectorise.
FASTSEMI_INLINE float cubic(float x) {
    x = std::fabs(x);
    const float near = (1.5f * x - 2.5f) * x * x + 1.0f;
    const float far = ((-0.5f * x + 2.5f) * x - 4.0f) * x + 2.0f;
    const float value = x < 1.0f ? near : far;
    return x < 2.0f ? value : 0.0f;
}

// The loops that take time. `offset` is the distance of tap 0 from the output's center, in kernel units.
FASTSEMI_INLINE void evaluate_loops(int taps, int count, float step, const float* offset, const float* low,
                                    const float* high, float* weight, float* sum) {
    for (int o = 0; o < count; ++o) sum[o] = 0.0f;
    for (int t = 0; t < taps; ++t, weight += count) {
        const float at = static_cast<float>(t), shift = at * step;
        for (int o = 0; o < count; ++o) {
            // Taps outside [low, high) lie outside the window.
            const float value = cubic(offset[o] + shift);
            weight[o] = at >= low[o] && at < high[o] ? value : 0.0f;
            sum[o] += weight[o];
        }
    }
}

// Weights of samples of two pixels each under triangle upsampling: pixel 2 j is 3/4 of sample j and 1/4 of
// sample j - 1, pixel 2 j + 1 is 3/4 of sample j and 1/4 of sample j + 1. Tap c is sample (first pixel) / 2 - 1 + c.
FASTSEMI_INLINE void triangle_loops(int pixel_taps, int taps, int count, const float* pixel, float* weight) {
    for (int c = 0; c < taps; ++c, weight += count) {
        for (int o = 0; o < count; ++o) weight[o] = 0.0f;
        for (int i = 0; i < 4; ++i) {
            const int t = 2 * c - 3 + i;
            if (t < 0 || t >= pixel_taps) continue;
            const float part = i == 0 || i == 3 ? 0.25f : 0.75f;
            const float* from = pixel + static_cast<size_t>(t) * count;
            for (int o = 0; o < count; ++o) weight[o] += part * from[o];
        }
    }
}

// Rounds running totals, so that the integers of each output sum up to one exactly.
FASTSEMI_INLINE void quantise_loops(int used, int taps, int count, const float* weight, const float* sum, float* total,
                                    int32_t* rounded, int16_t* pairs) {
    constexpr float one = 1 << kWeightBits;
    constexpr int bias = 1 << 15;  // makes truncation round down
    for (int o = 0; o < count; ++o) {
        total[o] = 0.0f;
        rounded[o] = bias;
    }
    for (int t = 0; t < taps; ++t) {
        int16_t* out = pairs + static_cast<size_t>(t / 2) * count * 2 + t % 2;
        for (int o = 0; o < count; ++o) {
            total[o] += t < used ? weight[static_cast<size_t>(t) * count + o] : 0.0f;
            const int next = static_cast<int>(total[o] * (one / sum[o]) + (bias + 0.5f));
            out[2 * o] = static_cast<int16_t>(next - rounded[o]);
            rounded[o] = next;
        }
    }
}

#if defined(__x86_64__) || defined(__i386__)
#define FASTSEMI_DISPATCH(name)                                                                 \
    template <class... A>                                                                       \
    __attribute__((target("avx2"))) void name##_avx2(A... a) { name##_loops(a...); }           \
    template <class... A>                                                                       \
    void name(A... a) {                                                                         \
        static const bool wide = __builtin_cpu_supports("avx2");                               \
        wide ? name##_avx2(a...) : name##_loops(a...);                                          \
    }
#else
#define FASTSEMI_DISPATCH(name) \
    template <class... A>       \
    void name(A... a) { name##_loops(a...); }
#endif
FASTSEMI_DISPATCH(evaluate)
FASTSEMI_DISPATCH(triangle)
FASTSEMI_DISPATCH(quantise)

void resize_stage(Stage& stage, int taps, int count) {
    stage.taps = taps;
    stage.weight.resize(static_cast<size_t>(taps) * count);
    stage.start.resize(count);
    stage.end.resize(count);
}

// Weights on pixels, not normalised. Every output starts at a multiple of `align`.
void weigh_pixels(int origin, int length, int count, bool mirror, int align, FilterScratch& s) {
    const double ratio = static_cast<double>(length) / count;
    const double stretch = std::max(ratio, 1.0), support = 2.0 * stretch;
    s.pixels.start.resize(count);
    s.pixels.end.resize(count);
    s.offset.resize(3 * static_cast<size_t>(count));
    s.sum.resize(count);
    float *offset = s.offset.data(), *low = offset + count, *high = low + count;
    int taps = 1;
    for (int o = 0; o < count; ++o) {
        const double center = ((mirror ? count - 1 - o : o) + 0.5) * ratio;
        const int begin = origin + std::max(0, static_cast<int>(center - support + 0.5));
        const int end = origin + std::min(length, static_cast<int>(center + support + 0.5));
        const int start = align == 2 ? begin & ~1 : begin;
        offset[o] = static_cast<float>((start - origin - center + 0.5) / stretch);
        low[o] = static_cast<float>(begin - start);
        high[o] = static_cast<float>(end - start);
        s.pixels.start[o] = start;
        s.pixels.end[o] = end;
        taps = std::max(taps, end - start);
    }
    resize_stage(s.pixels, taps, count);
    evaluate(taps, count, static_cast<float>(1.0 / stretch), offset, low, high, s.pixels.weight.data(), s.sum.data());
}

// Moves tap `from` of output o to the right (step 1) or left (step -1) neighbour.
inline void fold(Stage& stage, int count, int o, int from, int step) {
    float& weight = stage.weight[static_cast<size_t>(from) * count + o];
    stage.weight[static_cast<size_t>(from + step) * count + o] += weight;
    weight = 0.0f;
}

void weigh_triangle(const Grid& grid, int count, FilterScratch& s) {
    Stage& out = s.samples;
    resize_stage(out, s.pixels.taps / 2 + 2 + s.pixels.taps % 2, count);
    triangle(s.pixels.taps, out.taps, count, s.pixels.weight.data(), out.weight.data());
    for (int o = 0; o < count; ++o) {
        const int start = s.pixels.start[o] / 2 - 1, end = s.pixels.end[o] / 2 + 1;
        // Samples past the border are replicas of the first and the last one.
        if (end > grid.size) fold(out, count, o, grid.size - start, -1);
        if (start < 0) {
            fold(out, count, o, 0, 1);
            for (int t = 1; t < out.taps; ++t) {
                out.weight[static_cast<size_t>(t - 1) * count + o] = out.weight[static_cast<size_t>(t) * count + o];
            }
            out.weight[static_cast<size_t>(out.taps - 1) * count + o] = 0.0f;
        }
        out.start[o] = std::max(start, 0);
        out.end[o] = std::min(end, grid.size);
    }
}

void weigh_replicate(int factor, int count, FilterScratch& s) {
    Stage& out = s.samples;
    resize_stage(out, (s.pixels.taps + factor - 2) / factor + 1, count);
    std::fill(out.weight.begin(), out.weight.end(), 0.0f);
    for (int o = 0; o < count; ++o) {
        out.start[o] = s.pixels.start[o] / factor;
        out.end[o] = (s.pixels.end[o] - 1) / factor + 1;
        for (int pixel = s.pixels.start[o]; pixel < s.pixels.end[o]; ++pixel) {
            out.weight[static_cast<size_t>(pixel / factor - out.start[o]) * count + o] +=
                s.pixels.weight[static_cast<size_t>(pixel - s.pixels.start[o]) * count + o];
        }
    }
}

// Weights for blocks decoded to n samples: sample r of a block of 8 is a sum of the n, namely what the inverse DCT
// gives when the coefficients that were not decoded are zero.
void weigh_shrunk(const Stage& in, int n, int count, FilterScratch& s) {
    float basis[8][8];
    const double pi = 3.14159265358979323846;
    for (int r = 0; r < 8; ++r) {
        for (int m = 0; m < n; ++m) {
            double sum = 1.0;
            for (int k = 1; k < n; ++k) {
                sum += 2.0 * std::cos((2 * r + 1) * k * pi / 16) * std::cos((2 * m + 1) * k * pi / (2 * n));
            }
            basis[r][m] = static_cast<float>(sum / n);
        }
    }
    Stage& out = s.shrunk;
    resize_stage(out, ((in.taps + 6) / 8 + 1) * n, count);
    std::fill(out.weight.begin(), out.weight.end(), 0.0f);
    for (int o = 0; o < count; ++o) {
        const int block = in.start[o] / 8;
        out.start[o] = block * n;
        out.end[o] = ((in.end[o] - 1) / 8 + 1) * n;
        for (int at = in.start[o]; at < in.end[o]; ++at) {
            const float w = in.weight[static_cast<size_t>(at - in.start[o]) * count + o];
            float* to = &out.weight[static_cast<size_t>(at / 8 - block) * n * count + o];
            for (int m = 0; m < n; ++m) to[static_cast<size_t>(m) * count] += w * basis[at % 8][m];
        }
    }
}

}  // namespace

void build_axis(int origin, int length, int count, bool mirror, const Grid& grid, FilterScratch& s, Axis& axis) {
    weigh_pixels(origin, length, count, mirror, grid.upsampling == Upsampling::triangle ? 2 : 1, s);
    const Stage* stage = &s.pixels;
    if (grid.factor > 1) {
        if (grid.upsampling == Upsampling::triangle) {
            weigh_triangle(grid, count, s);
        } else {
            weigh_replicate(grid.factor, count, s);
        }
        stage = &s.samples;
    }
    if (grid.shrink > 1) {
        weigh_shrunk(*stage, 8 / grid.shrink, count, s);
        stage = &s.shrunk;
    }
    int used = 1;
    for (int o = 0; o < count; ++o) used = std::max(used, stage->end[o] - stage->start[o]);
    axis.count = count;
    axis.taps = (used + 1) & ~1;
    axis.start = stage->start;
    axis.first = *std::min_element(stage->start.begin(), stage->start.end());
    axis.last = *std::max_element(stage->end.begin(), stage->end.end());
    axis.pairs.resize(static_cast<size_t>(axis.taps) * count);
    s.total.resize(count);
    s.rounded.resize(count);
    quantise(used, axis.taps, count, stage->weight.data(), s.sum.data(), s.total.data(), s.rounded.data(),
             axis.pairs.data());
}

}  // namespace fastsemi
