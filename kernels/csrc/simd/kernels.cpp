#include "simd/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace fastsemi {
namespace {

inline uint8_t clip(int value) { return static_cast<uint8_t>(std::clamp(value, 0, 255)); }

constexpr int kHalf = 1 << (kWeightBits - 1);

// The products of a row in four sums, which compilers turn into vectors; `taps` is a multiple of 4.
template <int Step>
inline int dot_product(const uint8_t* in, const int16_t* w, int taps) {
    int sum[4] = {kHalf, 0, 0, 0};
    for (int t = 0; t < taps; t += 4) {
        for (int i = 0; i < 4; ++i) sum[i] += w[t + i] * in[Step * (t + i)];
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

template <int Step>
void dot_products(const uint8_t* row, ptrdiff_t stride, const RowFilter& filter, int16_t* out) {
    for (int o = 0; o < filter.count; ++o) {
        const uint8_t* in = row + filter.base[o];
        const int16_t* w = &filter.weight[static_cast<size_t>(o) * filter.taps];
        out[2 * o] = clip(dot_product<Step>(in, w, filter.taps) >> kWeightBits);
        out[2 * o + 1] = clip(dot_product<Step>(in + stride, w, filter.taps) >> kWeightBits);
    }
}

void horizontal(const uint8_t* row, ptrdiff_t stride, const RowFilter& filter, int16_t* out) {
    (filter.step == 1 ? dot_products<1> : dot_products<3>)(row, stride, filter, out);
}

void vertical(int16_t* const* lines, const int16_t* weight, int pairs, int n, uint8_t* out) {
    for (int x = 0; x < n; x += 64) {
        int sum[64];
        for (int& s : sum) s = kHalf;
        for (int t = 0; t < pairs; ++t) {
            const int16_t *in = lines[t] + 2 * x, *w = weight + 2 * t;
            for (int i = 0; i < 64; ++i) sum[i] += w[0] * in[2 * i] + w[1] * in[2 * i + 1];
        }
        for (int i = 0; i < 64; ++i) out[x + i] = clip(sum[i] >> kWeightBits);
    }
}

// Rounded product of a 16-bit integer and a fraction in 1/32768, as SSSE3's mulhrs.
inline int scale(int value, int fraction) { return (value * fraction + (1 << 14)) >> 15; }

void ycc_to_rgb(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* out) {
    for (int i = 0; i < n; ++i) {
        // JFIF: R = Y + 1.402 Cr, G = Y - 0.344136 Cb - 0.714136 Cr, B = Y + 1.772 Cb, all in 1/64.
        const int luma = (y[i] << 6) + 32, blue = (cb[i] - 128) * 64, red = (cr[i] - 128) * 64;
        out[3 * i] = clip((luma + red + scale(red, 13173)) >> 6);
        out[3 * i + 1] = clip((luma - scale(blue, 11277) - scale(red, 23401)) >> 6);
        out[3 * i + 2] = clip((luma + 2 * blue - scale(blue, 7471)) >> 6);
    }
}

void planes_to_rgb(const uint8_t* r, const uint8_t* g, const uint8_t* b, int n, uint8_t* out) {
    for (int i = 0; i < n; ++i) {
        out[3 * i] = r[i];
        out[3 * i + 1] = g[i];
        out[3 * i + 2] = b[i];
    }
}

// One-dimensional 8-point inverse DCT, orthonormal basis times sqrt(8), in 1/8192: even and odd coefficients
// give the sum and the difference of mirrored outputs. 16-bit inputs cannot overflow the 32-bit sums.
inline void idct8(const int* in, int stride, int* out) {
    constexpr int a = 8192, b = 10703, c = 4433, d = 11363, e = 9633, f = 6436, g = 2260;
    const int x0 = in[0], x1 = in[stride], x2 = in[2 * stride], x3 = in[3 * stride];
    const int x4 = in[4 * stride], x5 = in[5 * stride], x6 = in[6 * stride], x7 = in[7 * stride];
    const int p = a * (x0 + x4), q = a * (x0 - x4), r = b * x2 + c * x6, s = c * x2 - b * x6;
    const int even[4] = {p + r, q + s, q - s, p - r};
    const int odd[4] = {d * x1 + e * x3 + f * x5 + g * x7, e * x1 - g * x3 - d * x5 - f * x7,
                        f * x1 - d * x3 + g * x5 + e * x7, g * x1 - f * x3 + e * x5 - d * x7};
    for (int i = 0; i < 4; ++i) {
        out[i] = even[i] + odd[i];
        out[7 - i] = even[i] - odd[i];
    }
}

// Wraps as the 16-bit SIMD product does where a hostile file asks for more.
inline int dequantise(int16_t coef, uint16_t quant) {
    return static_cast<int16_t>(static_cast<uint32_t>(coef) * quant);
}

void idct_block(const int16_t* coef, const uint16_t* quant, uint8_t* dst, ptrdiff_t stride) {
    int in[64], rows[64], line[8];
    for (int i = 0; i < 64; ++i) in[i] = dequantise(coef[i], quant[i]);
    for (int v = 0; v < 8; ++v) {  // along rows: coefficient u of row v lies at 8 u + v
        idct8(in + v, 8, line);
        for (int x = 0; x < 8; ++x) rows[8 * v + x] = std::clamp((line[x] + (1 << 10)) >> 11, -32768, 32767);
    }
    for (int x = 0; x < 8; ++x) {
        idct8(rows + x, 8, line);
        for (int y = 0; y < 8; ++y) dst[y * stride + x] = clip((line[y] + (1 << 17) + (128 << 18)) >> 18);
    }
}

void idct(const int16_t* coef, const uint16_t* quant, uint8_t* const* dst, ptrdiff_t stride, int n) {
    for (int i = 0; i < n; ++i) idct_block(coef + kBlockStep * i, quant, dst[i], stride);
}

}  // namespace

void idct_shrunk(int n, const int16_t* coef, const uint16_t* quant, uint8_t* dst, ptrdiff_t stride) {
    // basis[k][x] of the n-point inverse DCT; the factor 1 / n^2 keeps the mean of the block.
    static const struct Bases {
        float value[5][4][4] = {};
        Bases() {
            const double pi = 3.14159265358979323846;
            for (int size : {2, 4}) {
                for (int k = 0; k < size; ++k) {
                    for (int x = 0; x < size; ++x) {
                        const double scale = std::sqrt((k ? 2.0 : 1.0) / 8.0);
                        value[size][k][x] = static_cast<float>(scale * std::cos((2 * x + 1) * k * pi / (2 * size)));
                    }
                }
            }
        }
    } bases;
    const auto& basis = bases.value[n];
    float rows[4][4] = {};
    for (int u = 0; u < n; ++u) {
        for (int v = 0; v < n; ++v) {
            const float value = static_cast<float>(dequantise(coef[8 * u + v], quant[8 * u + v]));
            for (int x = 0; x < n; ++x) rows[v][x] += value * basis[u][x];
        }
    }
    for (int y = 0; y < n; ++y) {
        for (int x = 0; x < n; ++x) {
            float sum = 128.5f;
            for (int v = 0; v < n; ++v) sum += rows[v][x] * basis[v][y];
            dst[y * stride + x] = static_cast<uint8_t>(std::clamp(sum, 0.0f, 255.0f));
        }
    }
}

const Kernels kPortableKernels = {"portable", 0,          1,             0,             4,   horizontal,
                                  vertical,   ycc_to_rgb, planes_to_rgb, idct};

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#ifdef FASTSEMI_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("bmi2")) {
        found.push_back(&kAvx512Kernels);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) found.push_back(&kAvx2Kernels);
    if (__builtin_cpu_supports("sse4.1")) found.push_back(&kSse41Kernels);
#endif
    found.push_back(&kPortableKernels);
    return found;
}

namespace {

void build_dot_products(const Axis& axis, int origin, int multiple, RowFilter& filter) {
    filter.groups = axis.count;
    filter.taps = (axis.taps + multiple - 1) / multiple * multiple;
    filter.base.resize(axis.count);
    filter.weight.assign(static_cast<size_t>(axis.count) * filter.taps, 0);
    for (int o = 0; o < axis.count; ++o) {
        filter.base[o] = axis.start[o] - origin;
        int16_t* weight = &filter.weight[static_cast<size_t>(o) * filter.taps];
        for (int t = 0; t < axis.taps; t += 2) {
            std::memcpy(weight + t, &axis.pairs[static_cast<size_t>(t) * axis.count + 2 * o], 2 * sizeof(int16_t));
        }
    }
}

// Starts of the outputs from `begin`, `size` of them at most: the least and the largest. Mirrored pixels come in
// descending order, their bytes do not.
std::pair<int, int> range(const Axis& axis, int begin, int size) {
    const auto first = axis.start.begin() + begin, last = axis.start.begin() + std::min(axis.count, begin + size);
    const auto [low, high] = std::minmax_element(first, last);
    return {*low, *high};
}

int widest_range(const Axis& axis, int size) {
    int widest = 0;
    for (int o = 0; o < axis.count; o += size) {
        const auto [low, high] = range(axis, o, size);
        widest = std::max(widest, high - low);
    }
    return widest;
}

}  // namespace

void interleave(const Axis& axis, int step, Axis& bytes) {
    const int count = axis.count;
    bytes.count = step * count;
    bytes.taps = axis.taps;
    bytes.start.resize(bytes.count);
    bytes.pairs.resize(axis.pairs.size() * step);
    for (int o = 0; o < count; ++o) {
        for (int i = 0; i < step; ++i) bytes.start[step * o + i] = step * axis.start[o] + i;
    }
    int16_t* to = bytes.pairs.data();
    for (size_t from = 0; from < axis.pairs.size(); from += 2) {
        for (int i = 0; i < step; ++i, to += 2) std::memcpy(to, &axis.pairs[from], 2 * sizeof(int16_t));
    }
}

void build_row_filter(const Axis& axis, int origin, int step, const Kernels& kernels, RowFilter& filter) {
    const int count = axis.count, taps = axis.taps, group = kernels.group;
    filter.count = count;
    filter.step = step;
    const auto fits = [&](int widest) { return widest + step + 1 <= kernels.window; };
    int size = group, widest = group > 0 ? widest_range(axis, group) : 0;
    // Where much is reduced, groups are of whole pixels, at least of one.
    if (step > 1 && group > 0 && !fits(widest)) {
        for (size = group / step * step; size > step && !fits(widest = widest_range(axis, size));) size -= step;
        if (size == step) widest = step - 1;
    }
    filter.filled = size;
    filter.shuffled = fits(widest);
    filter.loaded_once = widest + step * (taps - 1) + 1 <= kernels.window;
    if (!filter.shuffled) return build_dot_products(axis, origin, kernels.dot_multiple, filter);
    const int used = (count + size - 1) / size;
    filter.taps = taps;
    filter.groups = (used + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
    filter.base.assign(filter.groups, 0);
    filter.mask.assign(static_cast<size_t>(filter.groups) * group * 4, 0x80);
    filter.weight.assign(static_cast<size_t>(filter.groups) * group * taps, 0);
    for (int g = 0; g < used; ++g) {
        const int begin = g * size, end = std::min(count, begin + size);
        const int base = range(axis, begin, size).first;
        filter.base[g] = base - origin;
        uint8_t* mask = &filter.mask[static_cast<size_t>(g) * group * 4];
        for (int o = begin; o < end; ++o, mask += 4) {
            mask[0] = static_cast<uint8_t>(axis.start[o] - base);
            mask[2] = static_cast<uint8_t>(mask[0] + step);
        }
        const size_t jump = 2 * static_cast<size_t>(group) * kernels.lanes;
        int16_t* weight = &filter.weight[g / kernels.lanes * jump * (taps / 2) +
                                         g % kernels.lanes * 2 * static_cast<size_t>(group)];
        for (int p = 0; p < taps / 2; ++p, weight += jump) {
            std::memcpy(weight, &axis.pairs[2 * (static_cast<size_t>(p) * count + begin)],
                        2 * sizeof(int16_t) * static_cast<size_t>(end - begin));
        }
    }
}

void build_column_filter(const Axis& axis, ColumnFilter& filter) {
    const int count = axis.count;
    const auto weight = [&](int t, int o) { return axis.pairs[2 * (t / 2 * static_cast<size_t>(count) + o) + t % 2]; };
    filter.end = (axis.last + 1) / 2;
    filter.start.resize(count);
    filter.pairs = 0;
    for (int o = 0; o < count; ++o) {
        int taps = axis.taps;
        while (taps > 1 && weight(taps - 1, o) == 0) --taps;
        filter.start[o] = axis.start[o] / 2;
        filter.pairs = std::max(filter.pairs, (axis.start[o] % 2 + taps + 1) / 2);
    }
    filter.weight.assign(2 * static_cast<size_t>(count) * filter.pairs, 0);
    for (int o = 0; o < count; ++o) {
        int16_t* to = &filter.weight[2 * static_cast<size_t>(o) * filter.pairs] + axis.start[o] % 2;
        const int taps = std::min(axis.taps, 2 * filter.pairs - axis.start[o] % 2);
        for (int t = 0; t < taps; ++t) to[t] = weight(t, o);
    }
}

}  // namespace fastsemi
