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

FS_TARGET void dot_products(const uint8_t* row, const RowFilter& filter, uint8_t* out) {
    for (int o = 0; o < filter.count; ++o) {
        const uint8_t* in = row + filter.base[o];
        const int16_t* w = &filter.weight[static_cast<size_t>(o) * filter.taps];
        __m128i sum = _mm_setzero_si128();
        for (int t = 0; t < filter.taps; t += 8) {
            const __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + t)));
            sum = _mm_add_epi32(sum, _mm_madd_epi16(x, load(w + t)));
        }
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        const int value = (_mm_cvtsi128_si32(sum) + (1 << (kWeightBits - 1))) >> kWeightBits;
        out[o] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

FS_TARGET void horizontal(const uint8_t* row, const RowFilter& filter, uint8_t* out) {
    if (!filter.shuffled) return dot_products(row, filter, out);
    const int pairs = filter.taps / 2;
    const int16_t* w = filter.weight.data();
    for (int g = 0; g < filter.groups; g += 4) {
        __m128i sum[4];
        for (int k = 0; k < 4; ++k) {
            const uint8_t* in = row + filter.base[g + k];
            const __m128i mask = load(&filter.mask[static_cast<size_t>(g + k) * 16]);
            __m128i s = _mm_set1_epi32(1 << (kWeightBits - 1));
            for (int t = 0; t < pairs; ++t, w += 8) {
                s = _mm_add_epi32(s, _mm_madd_epi16(_mm_shuffle_epi8(load(in + 2 * t), mask), load(w)));
            }
            sum[k] = _mm_srai_epi32(s, kWeightBits);
        }
        const __m128i bytes = _mm_packus_epi16(_mm_packs_epi32(sum[0], sum[1]), _mm_packs_epi32(sum[2], sum[3]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 4 * g), bytes);
    }
}

FS_TARGET void vertical(const uint8_t* const* rows, const int16_t* weight, int taps, int n, uint8_t* out) {
    const __m128i zero = _mm_setzero_si128();
    for (int x = 0; x < n; x += 16) {
        __m128i sum[4];
        for (__m128i& s : sum) s = _mm_set1_epi32(1 << (kWeightBits - 1));
        for (int t = 0; t < taps; t += 2) {
            int pair;
            std::memcpy(&pair, weight + t, sizeof pair);
            const __m128i w = _mm_set1_epi32(pair), a = load(rows[t] + x), b = load(rows[t + 1] + x);
            const __m128i low = _mm_unpacklo_epi8(a, b), high = _mm_unpackhi_epi8(a, b);
            sum[0] = _mm_add_epi32(sum[0], _mm_madd_epi16(_mm_unpacklo_epi8(low, zero), w));
            sum[1] = _mm_add_epi32(sum[1], _mm_madd_epi16(_mm_unpackhi_epi8(low, zero), w));
            sum[2] = _mm_add_epi32(sum[2], _mm_madd_epi16(_mm_unpacklo_epi8(high, zero), w));
            sum[3] = _mm_add_epi32(sum[3], _mm_madd_epi16(_mm_unpackhi_epi8(high, zero), w));
        }
        for (__m128i& s : sum) s = _mm_srai_epi32(s, kWeightBits);
        const __m128i bytes = _mm_packus_epi16(_mm_packs_epi32(sum[0], sum[1]), _mm_packs_epi32(sum[2], sum[3]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), bytes);
    }
}

}  // namespace

const Kernels kSse41Kernels = {"sse4.1",   4,    1, 4, 16, 8, horizontal, vertical, ycc_to_rgb_sse41,
                               planes_to_rgb_sse41, rgb_to_planes_sse41, idct};

}  // namespace fastsemi
#endif
