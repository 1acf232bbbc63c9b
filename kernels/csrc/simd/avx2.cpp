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

FS_TARGET inline int dot_product(const uint8_t* in, const int16_t* w, int taps) {
    __m256i sums = _mm256_setzero_si256();
    for (int t = 0; t < taps; t += 16) {
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_cvtepu8_epi16(load128(in + t)), load(w + t)));
    }
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

// The sums of two rows to clipped values, in turn: those of the second row become the upper halves.
FS_TARGET inline __m256i join_rows(__m256i a, __m256i b) {
    const __m256i value =
        _mm256_blend_epi16(_mm256_srai_epi32(a, kWeightBits), _mm256_slli_epi32(b, 16 - kWeightBits), 0xaa);
    return _mm256_min_epi16(_mm256_max_epi16(value, _mm256_setzero_si256()), _mm256_set1_epi16(255));
}

// Pairs is the number of tap pairs where it is one of the usual, else 0. With Once, filter.loaded_once holds.
template <int Pairs, bool Once>
FS_TARGET void shuffle_products(const uint8_t* row, ptrdiff_t stride, const RowFilter& filter, int16_t* out) {
    const int jump = 2 * filter.step, pairs = Pairs ? Pairs : filter.taps / 2, groups = filter.groups;
    const int16_t* w = filter.weight.data();
    const uint8_t* masks = filter.mask.data();
    const int32_t* base = filter.base.data();
    const __m256i half = _mm256_set1_epi32(1 << (kWeightBits - 1)), next = _mm256_set1_epi8(Once ? static_cast<char>(jump) : 0);
    for (int g = 0; g < groups; g += 2, base += 2, masks += 32, out += 4 * filter.filled) {
        const uint8_t *low = row + base[0], *high = row + base[1];
        __m256i mask = load(masks), a = join(low, high), b = join(low + stride, high + stride);
        __m256i first = half, second = half;
        for (int t = 0; t < pairs; ++t, w += 16) {
            if (!Once) {
                a = join(low + jump * t, high + jump * t);
                b = join(low + jump * t + stride, high + jump * t + stride);
            }
            const __m256i weight = load(w);
            first = _mm256_add_epi32(first, _mm256_madd_epi16(_mm256_shuffle_epi8(a, mask), weight));
            second = _mm256_add_epi32(second, _mm256_madd_epi16(_mm256_shuffle_epi8(b, mask), weight));
            mask = _mm256_add_epi8(mask, next);
        }
        const __m256i values = join_rows(first, second);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(values));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * filter.filled), _mm256_extracti128_si256(values, 1));
    }
}

#include "simd/horizontal_x86.inc"

FS_TARGET void vertical(int16_t* const* lines, const int16_t* weight, int pairs, int n, uint8_t* out) {
    // Packing works on halves of registers.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int x = 0; x < n; x += 32) {
        __m256i sum[4];
        for (__m256i& s : sum) s = _mm256_set1_epi32(1 << (kWeightBits - 1));
        for (int t = 0; t < pairs; ++t) {
            int pair;
            std::memcpy(&pair, weight + 2 * t, sizeof pair);
            const __m256i w = _mm256_set1_epi32(pair);
            for (int k = 0; k < 4; ++k) {
                sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(load(lines[t] + 2 * x + 16 * k), w));
            }
        }
        for (__m256i& s : sum) s = _mm256_srai_epi32(s, kWeightBits);
        const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(sum[0], sum[1]),
                                                  _mm256_packs_epi32(sum[2], sum[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), _mm256_permutevar8x32_epi32(bytes, order));
    }
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2",   4,    2, 16, 16, horizontal, vertical, ycc_to_rgb_sse41,
                              planes_to_rgb_sse41, idct};

}  // namespace fastsemi
#endif
