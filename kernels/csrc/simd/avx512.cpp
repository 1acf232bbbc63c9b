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

// 16 sums to 16 clipped bytes.
FS_TARGET inline __m128i clip(__m512i sum) {
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_srai_epi32(sum, kWeightBits), _mm512_setzero_si512()));
}

FS_TARGET void dot_products(const uint8_t* row, const RowFilter& filter, uint8_t* out) {
    for (int o = 0; o < filter.count; ++o) {
        const uint8_t* in = row + filter.base[o];
        const int16_t* w = &filter.weight[static_cast<size_t>(o) * filter.taps];
        __m512i sums = _mm512_setzero_si512();
        for (int t = 0; t < filter.taps; t += 32) {
            const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + t));
            sums = _mm512_dpwssd_epi32(sums, _mm512_cvtepu8_epi16(x), load(w + t));
        }
        const int value = (_mm512_reduce_add_epi32(sums) + (1 << (kWeightBits - 1))) >> kWeightBits;
        out[o] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

// Pairs is the number of tap pairs where it is one of the usual, else 0.
template <int Pairs>
FS_TARGET void shuffle_products(const uint8_t* row, const RowFilter& filter, uint8_t* out) {
    const int pairs = Pairs ? Pairs : filter.taps / 2;
    const int16_t* w = filter.weight.data();
    const uint8_t* mask = filter.mask.data();
    const int32_t* base = filter.base.data();
    const int groups = filter.groups;
    for (int g = 0; g < groups; ++g, mask += 64, out += 16) {
        const uint8_t* in = row + base[g];
        const __m512i index = load(mask);
        __m512i sum = _mm512_set1_epi32(1 << (kWeightBits - 1));
        for (int t = 0; t < pairs; ++t, w += 32) {
            const __m512i x = _mm512_maskz_permutexvar_epi8(0x5555555555555555, index, load(in + 2 * t));
            sum = _mm512_dpwssd_epi32(sum, x, load(w));
        }
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), clip(sum));
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
    const __m512i zero = _mm512_setzero_si512();
    for (int x = 0; x < n; x += 64) {
        __m512i sum[4];
        for (__m512i& s : sum) s = _mm512_set1_epi32(1 << (kWeightBits - 1));
        for (int t = 0; t < taps; t += 2) {
            int pair;
            std::memcpy(&pair, weight + t, sizeof pair);
            const __m512i w = _mm512_set1_epi32(pair), a = load(rows[t] + x), b = load(rows[t + 1] + x);
            const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
            sum[0] = _mm512_dpwssd_epi32(sum[0], _mm512_unpacklo_epi8(low, zero), w);
            sum[1] = _mm512_dpwssd_epi32(sum[1], _mm512_unpackhi_epi8(low, zero), w);
            sum[2] = _mm512_dpwssd_epi32(sum[2], _mm512_unpacklo_epi8(high, zero), w);
            sum[3] = _mm512_dpwssd_epi32(sum[3], _mm512_unpackhi_epi8(high, zero), w);
        }
        for (__m512i& s : sum) s = _mm512_srai_epi32(s, kWeightBits);
        const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(sum[0], sum[1]),
                                                  _mm512_packs_epi32(sum[2], sum[3]));
        _mm512_storeu_si512(out + x, bytes);
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

const Kernels kAvx512Kernels = {"avx512", 16,       1,          1,             64,                  32,
                                horizontal, vertical, ycc_to_rgb, planes_to_rgb, rgb_to_planes_sse41, idct};

}  // namespace fastsemi
#endif
