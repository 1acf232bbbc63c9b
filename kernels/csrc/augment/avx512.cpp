// Augmentation with AVX-512 and its byte permutations (VBMI): Intel since Ice Lake, AMD since Zen 4.
#include "augment/augment.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>

#include <cstring>

#define FS_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx2,fma")))
#define FS_SHUFFLES
#define FS_INTERPOLATE
#define FS_FUSED(a, b, c) __builtin_fmaf(a, b, c)

namespace fastsemi {
namespace {

#include "augment/loops.inc"

// A table of 256 bytes in registers.
struct Table {
    __m512i part[4];
};

FS_TARGET inline Table load_table(const uint8_t* table) {
    Table t;
    for (int i = 0; i < 4; ++i) t.part[i] = _mm512_loadu_si512(table + 64 * i);
    return t;
}

FS_TARGET inline __m512i look(const Table& t, __m512i at) {
    const __m512i low = _mm512_permutex2var_epi8(t.part[0], at, t.part[1]);
    const __m512i high = _mm512_permutex2var_epi8(t.part[2], at, t.part[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high);
}

FS_TARGET inline __mmask64 first_bytes(int n) { return n >= 64 ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1; }

FS_TARGET void lookup(const uint8_t* in, const uint8_t* table, int n, uint8_t* out) {
    const Table t = load_table(table);
    for (int i = 0; i < n; i += 64) {
        const __mmask64 there = first_bytes(n - i);
        _mm512_mask_storeu_epi8(out + i, there, look(t, _mm512_maskz_loadu_epi8(there, in + i)));
    }
}

FS_TARGET void lookup_channels(const uint8_t* in, const uint8_t* table, int n, uint8_t* out) {
    const Table red = load_table(table), green = load_table(table + 256), blue = load_table(table + 512);
    // Every third byte, of a register that begins with red, green or blue. Registers begin with R, G, B in turn:
    // 64 is one more than a multiple of 3.
    const __mmask64 third[3] = {0x9249249249249249, 0x2492492492492492, 0x4924924924924924};
    for (int i = 0, first = 0; i < 3 * n; i += 64, first = (first + 1) % 3) {
        const __mmask64 there = first_bytes(3 * n - i);
        const __m512i at = _mm512_maskz_loadu_epi8(there, in + i);
        __m512i value = look(red, at);
        value = _mm512_mask_mov_epi8(value, third[(4 - first) % 3], look(green, at));
        value = _mm512_mask_mov_epi8(value, third[(5 - first) % 3], look(blue, at));
        _mm512_mask_storeu_epi8(out + i, there, value);
    }
}

// Four channels of the four pixels at p.
FS_TARGET inline __m512 pixels(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load16(p))); }

// Four columns around pixel i of a tile, interpolated along y.
FS_TARGET inline __m512 columns(const Rotation& r, const RotateTile& tile, int i) {
    const uint8_t* p = r.pixels + tile.at[i];
    __m512 sum = _mm512_mul_ps(pixels(p), _mm512_set1_ps(tile.y[0][i]));
    sum = _mm512_fmadd_ps(pixels(p + r.pitch), _mm512_set1_ps(tile.y[1][i]), sum);
    sum = _mm512_fmadd_ps(pixels(p + 2 * r.pitch), _mm512_set1_ps(tile.y[2][i]), sum);
    return _mm512_fmadd_ps(pixels(p + 3 * r.pitch), _mm512_set1_ps(tile.y[3][i]), sum);
}

FS_TARGET void interpolate(const Rotation& r, const RotateTile& tile, int begin, int end, uint8_t* out) {
    const __m128i narrow = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    uint8_t bytes[3 * kRotateTile + 4];
    for (int i = begin & ~3; i < end; i += 4) {
        const __m512 a = columns(r, tile, i), b = columns(r, tile, i + 1);
        const __m512 c = columns(r, tile, i + 2), d = columns(r, tile, i + 3);
        // Column t of the four pixels side by side.
        const __m512 ab = _mm512_shuffle_f32x4(a, b, 0x44), cd = _mm512_shuffle_f32x4(c, d, 0x44);
        const __m512 ab2 = _mm512_shuffle_f32x4(a, b, 0xee), cd2 = _mm512_shuffle_f32x4(c, d, 0xee);
        const __m512 column[4] = {_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd),
                                  _mm512_shuffle_f32x4(ab2, cd2, 0x88), _mm512_shuffle_f32x4(ab2, cd2, 0xdd)};
        __m512 weight[4];
        for (int t = 0; t < 4; ++t) {
            weight[t] = _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(tile.x[t] + i)), lane);
        }
        __m512 value = _mm512_mul_ps(column[0], weight[0]);
        for (int t = 1; t < 4; ++t) value = _mm512_fmadd_ps(column[t], weight[t], value);
        const __m512i whole = _mm512_cvttps_epi32(_mm512_add_ps(value, _mm512_set1_ps(kRounding)));
        const __m128i clipped = _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512()));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + 3 * i), _mm_shuffle_epi8(clipped, narrow));
    }
    std::memcpy(out + 3 * begin, bytes + 3 * begin, 3 * static_cast<size_t>(end - begin));
}

}  // namespace

const AugmentKernels kAvx512Augment = {"avx512", lookup, lookup_channels, sum_grey, saturate, sharpen, shift, rotate_row};

}  // namespace fastsemi
#endif
