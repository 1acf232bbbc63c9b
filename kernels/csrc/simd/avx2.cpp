// AVX2: Intel since 2013, AMD since 2015.
#include "simd/kernels.h"

#ifdef FASTSEMI_X86
#include <immintrin.h>

#include <cstring>

#include "simd/rgb_sse41.h"

namespace fastsemi {
namespace {

#define FS_TARGET __attribute__((target("avx2")))
#define FS_V __m256i
#define FS_OP(name) _mm256_##name
#define FS_BLOCKS 2

FS_TARGET inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
FS_TARGET inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

FS_TARGET inline __m256i join(const void* low, const void* high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(low)), load128(high), 1);
}

FS_TARGET inline __m256i load_lanes(const int16_t* coef, const int* at, int offset) {
    return join(coef + kBlockStep * at[0] + offset, coef + kBlockStep * at[1] + offset);
}

FS_TARGET inline __m256i broadcast_lane(const int16_t* p) { return _mm256_broadcastsi128_si256(load128(p)); }

FS_TARGET inline void store_rows(__m256i rows, uint8_t* const* dst, const int* at, ptrdiff_t offset, ptrdiff_t stride) {
    const __m128i block[2] = {_mm256_castsi256_si128(rows), _mm256_extracti128_si256(rows, 1)};
    for (int k = 0; k < 2; ++k) {
        uint8_t* out = dst[at[k]] + offset;
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out), block[k]);
        _mm_storeh_pd(reinterpret_cast<double*>(out + stride), _mm_castsi128_pd(block[k]));
    }
}

#include "simd/idct_x86.inc"

FS_TARGET void dot_products(const uint8_t* row, const RowFilter& filter, uint8_t* out) {
    for (int o = 0; o < filter.count; ++o) {
        const uint8_t* in = row + filter.base[o];
        const int16_t* w = &filter.weight[static_cast<size_t>(o) * filter.taps];
        __m256i sums = _mm256_setzero_si256();
        for (int t = 0; t < filter.taps; t += 16) {
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_cvtepu8_epi16(load128(in + t)), load(w + t)));
        }
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        const int value = (_mm_cvtsi128_si32(sum) + (1 << (kWeightBits - 1))) >> kWeightBits;
        out[o] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

FS_TARGET inline __m256i pack(const __m256i* sum) {
    return _mm256_packus_epi16(
        _mm256_packs_epi32(_mm256_srai_epi32(sum[0], kWeightBits), _mm256_srai_epi32(sum[1], kWeightBits)),
        _mm256_packs_epi32(_mm256_srai_epi32(sum[2], kWeightBits), _mm256_srai_epi32(sum[3], kWeightBits)));
}

// Pairs is the number of tap pairs where it is one of the usual, else 0.
template <int Pairs>
FS_TARGET void shuffle_products(const uint8_t* row, const RowFilter& filter, uint8_t* out) {
    const int pairs = Pairs ? Pairs : filter.taps / 2, groups = filter.groups;
    const int16_t* w = filter.weight.data();
    const uint8_t* masks = filter.mask.data();
    const int32_t* base = filter.base.data();
    for (int g = 0; g < groups; g += 8, base += 8, out += 32) {
        __m256i sum[4];
        for (int k = 0; k < 4; ++k, masks += 32) {
            const uint8_t *low = row + base[2 * k], *high = row + base[2 * k + 1];
            const __m256i mask = load(masks);
            __m256i s = _mm256_set1_epi32(1 << (kWeightBits - 1));
            for (int t = 0; t < pairs; ++t, w += 16) {
                const __m256i x = _mm256_shuffle_epi8(join(low + 2 * t, high + 2 * t), mask);
                s = _mm256_add_epi32(s, _mm256_madd_epi16(x, load(w)));
            }
            sum[k] = s;
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), pack(sum));
    }
}

FS_TARGET void horizontal(const uint8_t* row, const RowFilter& filter, uint8_t* out) {
    if (!filter.shuffled) return dot_products(row, filter, out);
    switch (filter.taps) {
        case 4: return shuffle_products<2>(row, filter, out);
        case 6: return shuffle_products<3>(row, filter, out);
        case 8: return shuffle_products<4>(row, filter, out);
        case 10: return shuffle_products<5>(row, filter, out);
        default: return shuffle_products<0>(row, filter, out);
    }
}

FS_TARGET void vertical(const uint8_t* const* rows, const int16_t* weight, int taps, int n, uint8_t* out) {
    const __m256i zero = _mm256_setzero_si256();
    for (int x = 0; x < n; x += 32) {
        __m256i sum[4];
        for (__m256i& s : sum) s = _mm256_set1_epi32(1 << (kWeightBits - 1));
        for (int t = 0; t < taps; t += 2) {
            int pair;
            std::memcpy(&pair, weight + t, sizeof pair);
            const __m256i w = _mm256_set1_epi32(pair), a = load(rows[t] + x), b = load(rows[t + 1] + x);
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), w));
            sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), w));
            sum[2] = _mm256_add_epi32(sum[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), w));
            sum[3] = _mm256_add_epi32(sum[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), w));
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), pack(sum));
    }
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2",   4,    2, 8, 16, 16, horizontal, vertical, ycc_to_rgb_sse41,
                              planes_to_rgb_sse41, rgb_to_planes_sse41, idct};

}  // namespace fastsemi
#endif
