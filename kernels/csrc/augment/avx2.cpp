// Augmentation with AVX2 and fused multiply-adds: Intel since 2013, AMD since 2015.
#include "augment/augment.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>

#include <cstring>

#define FS_TARGET __attribute__((target("avx2,fma")))
#define FS_SHUFFLES
#define FS_INTERPOLATE
#define FS_FUSED(a, b, c) __builtin_fmaf(a, b, c)

namespace fastsemi {
namespace {

#include "augment/loops.inc"
#define lookup lookup_bytes
#include "augment/tables.inc"
#undef lookup

// Each shuffle looks up 16 of the 256 entries and gives 0 for bytes that belong to the others.
FS_TARGET void lookup(const uint8_t* in, const uint8_t* table, int n, uint8_t* out) {
    const __m256i others = _mm256_set1_epi8(0x70);
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i));
        const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i + 32));
        __m256i first = _mm256_setzero_si256(), second = first;
        for (int k = 0; k < 16; ++k) {
            const __m256i entries = _mm256_broadcastsi128_si256(load16(table + 16 * k));
            const __m256i high = _mm256_set1_epi8(static_cast<char>(16 * k));
            // The byte's low half where its high half is k, else more than 127.
            const __m256i at = _mm256_adds_epu8(_mm256_xor_si256(a, high), others);
            const __m256i bt = _mm256_adds_epu8(_mm256_xor_si256(b, high), others);
            first = _mm256_or_si256(first, _mm256_shuffle_epi8(entries, at));
            second = _mm256_or_si256(second, _mm256_shuffle_epi8(entries, bt));
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), first);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i + 32), second);
    }
    lookup_bytes(in + i, table, n - i, out + i);
}

// Four channels of the two pixels at p.
FS_TARGET inline __m256 pixels(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

FS_TARGET inline __m128i interpolate_pixel(const Rotation& r, const RotateTile& tile, int i) {
    const uint8_t* p = r.pixels + tile.at[i];
    __m256 weight = _mm256_set1_ps(tile.y[0][i]);
    __m256 left = _mm256_mul_ps(pixels(p), weight), right = _mm256_mul_ps(pixels(p + 8), weight);
    for (int t = 1; t < 4; ++t) {
        p += r.pitch;
        weight = _mm256_set1_ps(tile.y[t][i]);
        left = _mm256_fmadd_ps(pixels(p), weight, left);
        right = _mm256_fmadd_ps(pixels(p + 8), weight, right);
    }
    __m128 value = _mm_mul_ps(_mm256_castps256_ps128(left), _mm_set1_ps(tile.x[0][i]));
    value = _mm_fmadd_ps(_mm256_extractf128_ps(left, 1), _mm_set1_ps(tile.x[1][i]), value);
    value = _mm_fmadd_ps(_mm256_castps256_ps128(right), _mm_set1_ps(tile.x[2][i]), value);
    value = _mm_fmadd_ps(_mm256_extractf128_ps(right, 1), _mm_set1_ps(tile.x[3][i]), value);
    return _mm_cvttps_epi32(_mm_add_ps(value, _mm_set1_ps(kRounding)));
}

FS_TARGET void interpolate(const Rotation& r, const RotateTile& tile, int begin, int end, uint8_t* out) {
    const __m128i narrow = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    uint8_t bytes[3 * kRotateTile + 4];
    for (int i = begin & ~3; i < end; i += 4) {
        // Packing clips to a byte.
        const __m128i low = _mm_packs_epi32(interpolate_pixel(r, tile, i), interpolate_pixel(r, tile, i + 1));
        const __m128i high = _mm_packs_epi32(interpolate_pixel(r, tile, i + 2), interpolate_pixel(r, tile, i + 3));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + 3 * i),
                         _mm_shuffle_epi8(_mm_packus_epi16(low, high), narrow));
    }
    std::memcpy(out + 3 * begin, bytes + 3 * begin, 3 * static_cast<size_t>(end - begin));
}

}  // namespace

const AugmentKernels kAvx2Augment = {"avx2", lookup, lookup_channels, sum_grey, saturate, sharpen, shift, rotate_row};

}  // namespace fastsemi
#endif
