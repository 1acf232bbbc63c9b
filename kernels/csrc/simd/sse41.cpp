// SSE4.1: any x86-64 CPU since 2008.
#include "simd/kernels.h"

#ifdef FASTSEMI_X86
#include <immintrin.h>

#include <cstring>

#include "simd/rgb_sse41.h"

namespace fastsemi {
namespace {

#define FS_TARGET __attribute__((target("sse4.1")))
#define FS_V __m128i
#define FS_OP(name) _mm_##name
#define FS_BLOCKS 1

FS_TARGET inline __m128i load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

FS_TARGET inline __m128i load_lanes(const int16_t* coef, const int* at, int offset) {
    return load(coef + kBlockStep * at[0] + offset);
}

FS_TARGET inline __m128i broadcast_lane(const int16_t* p) { return load(p); }

FS_TARGET inline void store_rows(__m128i rows, uint8_t* const* dst, const int* at, ptrdiff_t offset, ptrdiff_t stride) {
    uint8_t* out = dst[at[0]] + offset;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), rows);
    _mm_storeh_pd(reinterpret_cast<double*>(out + stride), _mm_castsi128_pd(rows));
}

#include "simd/idct_x86.inc"

FS_TARGET inline int dot_product(const uint8_t* in, const int16_t* w, int taps) {
    __m128i sum = _mm_setzero_si128();
    for (int t = 0; t < taps; t += 8) {
        const __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + t)));
        sum = _mm_add_epi32(sum, _mm_madd_epi16(x, load(w + t)));
    }
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

// The sums of two rows to clipped values, in turn: those of the second row become the upper halves.
FS_TARGET inline __m128i join_rows(__m128i a, __m128i b) {
    const __m128i value =
        _mm_blend_epi16(_mm_srai_epi32(a, kWeightBits), _mm_slli_epi32(b, 16 - kWeightBits), 0xaa);
    return _mm_min_epi16(_mm_max_epi16(value, _mm_setzero_si128()), _mm_set1_epi16(255));
}

// Pairs is the number of tap pairs where it is one of the usual, else 0. With Once, filter.loaded_once holds.
template <int Pairs, bool Once>
FS_TARGET void shuffle_products(const uint8_t* row, ptrdiff_t stride, const RowFilter& filter, int16_t* out) {
    const int jump = 2 * filter.step, pairs = Pairs ? Pairs : filter.taps / 2, groups = filter.groups;
    const int16_t* w = filter.weight.data();
    const __m128i half = _mm_set1_epi32(1 << (kWeightBits - 1)), next = _mm_set1_epi8(Once ? static_cast<char>(jump) : 0);
    for (int g = 0; g < groups; ++g, out += 2 * filter.filled) {
        const uint8_t* in = row + filter.base[g];
        __m128i mask = load(&filter.mask[static_cast<size_t>(g) * 16]), a = load(in), b = load(in + stride);
        __m128i first = half, second = half;
        for (int t = 0; t < pairs; ++t, w += 8) {
            if (!Once) {
                a = load(in + jump * t);
                b = load(in + jump * t + stride);
            }
            const __m128i weight = load(w);
            first = _mm_add_epi32(first, _mm_madd_epi16(_mm_shuffle_epi8(a, mask), weight));
            second = _mm_add_epi32(second, _mm_madd_epi16(_mm_shuffle_epi8(b, mask), weight));
            mask = _mm_add_epi8(mask, next);
        }
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), join_rows(first, second));
    }
}

#include "simd/horizontal_x86.inc"

FS_TARGET void vertical(int16_t* const* lines, const int16_t* weight, int pairs, int n, uint8_t* out) {
    for (int x = 0; x < n; x += 16) {
        __m128i sum[4];
        for (__m128i& s : sum) s = _mm_set1_epi32(1 << (kWeightBits - 1));
        for (int t = 0; t < pairs; ++t) {
            int pair;
            std::memcpy(&pair, weight + 2 * t, sizeof pair);
            const __m128i w = _mm_set1_epi32(pair);
            for (int k = 0; k < 4; ++k) {
                sum[k] = _mm_add_epi32(sum[k], _mm_madd_epi16(load(lines[t] + 2 * x + 8 * k), w));
            }
        }
        for (__m128i& s : sum) s = _mm_srai_epi32(s, kWeightBits);
        const __m128i bytes = _mm_packus_epi16(_mm_packs_epi32(sum[0], sum[1]), _mm_packs_epi32(sum[2], sum[3]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), bytes);
    }
}

}  // namespace

const Kernels kSse41Kernels = {"sse4.1",   4,    1, 16, 8, horizontal, vertical, ycc_to_rgb_sse41,
                               planes_to_rgb_sse41, idct};

}  // namespace fastsemi
#endif
