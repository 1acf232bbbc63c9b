// AVX-512 with VBMI (byte permutations) and VNNI (fused 16-bit dot products): Intel since 2019, AMD since 2022.
#include "simd/kernels.h"
#include "simd/rgb_sse41.h"

#ifdef FASTSEMI_X86
#include <immintrin.h>

#include <cstring>

namespace fastsemi {
namespace {

#define FS_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))
#define FS_V __m512i
#define FS_OP(name) _mm512_##name
#define FS_BLOCKS 4

FS_TARGET inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
FS_TARGET inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

FS_TARGET inline __m512i load_lanes(const int16_t* coef, const int* at, int offset) {
    __m512i v = _mm512_castsi128_si512(load128(coef + kBlockStep * at[0] + offset));
    v = _mm512_inserti32x4(v, load128(coef + kBlockStep * at[1] + offset), 1);
    v = _mm512_inserti32x4(v, load128(coef + kBlockStep * at[2] + offset), 2);
    return _mm512_inserti32x4(v, load128(coef + kBlockStep * at[3] + offset), 3);
}

FS_TARGET inline __m512i broadcast_lane(const int16_t* p) { return _mm512_broadcast_i32x4(load128(p)); }

FS_TARGET inline void store_rows(__m512i rows, uint8_t* const* dst, const int* at, ptrdiff_t offset, ptrdiff_t stride) {
    const __m128i block[4] = {_mm512_castsi512_si128(rows), _mm512_extracti32x4_epi32(rows, 1),
                              _mm512_extracti32x4_epi32(rows, 2), _mm512_extracti32x4_epi32(rows, 3)};
    for (int k = 0; k < 4; ++k) {
        uint8_t* out = dst[at[k]] + offset;
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out), block[k]);
        _mm_storeh_pd(reinterpret_cast<double*>(out + stride), _mm_castsi128_pd(block[k]));
    }
}

#include "simd/idct_x86.inc"

// The sums of two rows to clipped values, in turn: those of the second row become the upper halves.
FS_TARGET inline __m512i join(__m512i a, __m512i b) {
    const __m512i value = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srai_epi32(a, kWeightBits),
                                                  _mm512_slli_epi32(b, 16 - kWeightBits));
    return _mm512_min_epi16(_mm512_max_epi16(value, _mm512_setzero_si512()), _mm512_set1_epi16(255));
}

FS_TARGET inline int dot_product(const uint8_t* in, const int16_t* w, int taps) {
    __m512i sums = _mm512_setzero_si512();
    for (int t = 0; t < taps; t += 32) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + t));
        sums = _mm512_dpwssd_epi32(sums, _mm512_cvtepu8_epi16(x), load(w + t));
    }
    return _mm512_reduce_add_epi32(sums);
}

FS_TARGET inline __m512i pick(__m512i bytes, __m512i index) {
    return _mm512_maskz_permutexvar_epi8(0x5555555555555555, index, bytes);
}

// Pairs is the number of tap pairs where it is one of the usual, else 0. With Once, filter.loaded_once holds.
template <int Pairs, bool Once>
FS_TARGET void shuffle_products(const uint8_t* row, ptrdiff_t stride, const RowFilter& filter, int16_t* out) {
    const int jump = 2 * filter.step, pairs = Pairs ? Pairs : filter.taps / 2;
    const int16_t* w = filter.weight.data();
    const uint8_t* mask = filter.mask.data();
    const int32_t* base = filter.base.data();
    const int groups = filter.groups;
    const __m512i half = _mm512_set1_epi32(1 << (kWeightBits - 1)), next = _mm512_set1_epi8(Once ? static_cast<char>(jump) : 0);
    for (int g = 0; g < groups; ++g, mask += 64, out += 2 * filter.filled) {
        const uint8_t* in = row + base[g];
        __m512i index = load(mask), a = load(in), b = load(in + stride), first = half, second = half;
        for (int t = 0; t < pairs; ++t, w += 32) {
            if (!Once) {
                a = load(in + jump * t);
                b = load(in + jump * t + stride);
            }
            const __m512i weight = load(w);
            first = _mm512_dpwssd_epi32(first, pick(a, index), weight);
            second = _mm512_dpwssd_epi32(second, pick(b, index), weight);
            index = _mm512_add_epi8(index, next);
        }
        _mm512_storeu_si512(out, join(first, second));
    }
}

#include "simd/horizontal_x86.inc"

FS_TARGET void vertical(int16_t* const* lines, const int16_t* weight, int pairs, int n, uint8_t* out) {
    // Packing works on quarters of registers.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int x = 0; x < n; x += 64) {
        __m512i sum[4];
        for (__m512i& s : sum) s = _mm512_set1_epi32(1 << (kWeightBits - 1));
        for (int t = 0; t < pairs; ++t) {
            int pair;
            std::memcpy(&pair, weight + 2 * t, sizeof pair);
            const __m512i w = _mm512_set1_epi32(pair);
            for (int k = 0; k < 4; ++k) sum[k] = _mm512_dpwssd_epi32(sum[k], load(lines[t] + 2 * x + 32 * k), w);
        }
        for (__m512i& s : sum) s = _mm512_srai_epi32(s, kWeightBits);
        const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(sum[0], sum[1]),
                                                  _mm512_packs_epi32(sum[2], sum[3]));
        _mm512_storeu_si512(out + x, _mm512_permutexvar_epi32(order, bytes));
    }
}

// Byte i of 64-byte part p of the interleaved output is channel (64 p + i) % 3 of pixel (64 p + i) / 3.
struct Interleave {
    alignas(64) uint8_t index[3][64];
    uint64_t third[3] = {0, 0, 0};  // where the third channel goes
    Interleave() {
        for (int p = 0; p < 3; ++p) {
            for (int i = 0; i < 64; ++i) {
                const int channel = (64 * p + i) % 3, pixel = (64 * p + i) / 3;
                index[p][i] = static_cast<uint8_t>(channel == 1 ? 64 + pixel : pixel);
                if (channel == 2) third[p] |= 1ull << i;
            }
        }
    }
};

FS_TARGET inline void store_interleaved(__m512i r, __m512i g, __m512i b, int n, uint8_t* out) {
    static const Interleave table;
    for (int p = 0; p < 3; ++p) {
        const __m512i index = load(table.index[p]);
        __m512i bytes = _mm512_permutex2var_epi8(r, index, g);
        bytes = _mm512_mask_permutexvar_epi8(bytes, table.third[p], index, b);
        const int left = 3 * n - 64 * p;
        if (left >= 64) {
            _mm512_storeu_si512(out + 64 * p, bytes);
        } else if (left > 0) {
            _mm512_mask_storeu_epi8(out + 64 * p, (1ull << left) - 1, bytes);
        }
    }
}

// 32 pixels; see convert8 in rgb_sse41.cpp.
FS_TARGET inline void convert32(__m512i y, __m512i cb, __m512i cr, __m512i* rgb) {
    const __m512i center = _mm512_set1_epi16(128);
    y = _mm512_add_epi16(_mm512_slli_epi16(y, 6), _mm512_set1_epi16(32));
    cb = _mm512_slli_epi16(_mm512_sub_epi16(cb, center), 6);
    cr = _mm512_slli_epi16(_mm512_sub_epi16(cr, center), 6);
    const __m512i red = _mm512_add_epi16(cr, _mm512_mulhrs_epi16(cr, _mm512_set1_epi16(13173)));
    const __m512i blue = _mm512_sub_epi16(_mm512_slli_epi16(cb, 1), _mm512_mulhrs_epi16(cb, _mm512_set1_epi16(7471)));
    const __m512i green = _mm512_add_epi16(_mm512_mulhrs_epi16(cb, _mm512_set1_epi16(11277)),
                                           _mm512_mulhrs_epi16(cr, _mm512_set1_epi16(23401)));
    rgb[0] = _mm512_srai_epi16(_mm512_adds_epi16(y, red), 6);
    rgb[1] = _mm512_srai_epi16(_mm512_subs_epi16(y, green), 6);
    rgb[2] = _mm512_srai_epi16(_mm512_adds_epi16(y, blue), 6);
}

FS_TARGET void ycc_to_rgb(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* out) {
    const __m512i zero = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 64) {
        const __m512i v[3] = {load(y + i), load(cb + i), load(cr + i)};
        __m512i low[3], high[3];
        convert32(_mm512_unpacklo_epi8(v[0], zero), _mm512_unpacklo_epi8(v[1], zero), _mm512_unpacklo_epi8(v[2], zero),
                  low);
        convert32(_mm512_unpackhi_epi8(v[0], zero), _mm512_unpackhi_epi8(v[1], zero), _mm512_unpackhi_epi8(v[2], zero),
                  high);
        store_interleaved(_mm512_packus_epi16(low[0], high[0]), _mm512_packus_epi16(low[1], high[1]),
                          _mm512_packus_epi16(low[2], high[2]), n - i, out + 3 * i);
    }
}

FS_TARGET void planes_to_rgb(const uint8_t* r, const uint8_t* g, const uint8_t* b, int n, uint8_t* out) {
    for (int i = 0; i < n; i += 64) store_interleaved(load(r + i), load(g + i), load(b + i), n - i, out + 3 * i);
}

}  // namespace

const Kernels kAvx512Kernels = {"avx512", 16,         1,             64,                  32,  horizontal,
                                vertical, ycc_to_rgb, planes_to_rgb, idct};

}  // namespace fastsemi
#endif
