#include "simd/rgb_sse41.h"

#include "simd/kernels.h"

#ifdef FASTSEMI_X86
#include <immintrin.h>

#include <cstring>

#define FS_TARGET __attribute__((target("sse4.1")))

namespace fastsemi {
namespace {

struct Rgb {
    __m128i r, g, b;
};

FS_TARGET inline __m128i load(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// Writes 16 pixels, 48 bytes: byte i of the output is channel i % 3 of pixel i / 3.
FS_TARGET inline void store_interleaved(const Rgb& v, uint8_t* out) {
    const __m128i* in[3] = {&v.r, &v.g, &v.b};
    static const struct Masks {
        alignas(16) uint8_t value[3][3][16];
        Masks() {
            for (int part = 0; part < 3; ++part) {
                for (int c = 0; c < 3; ++c) {
                    for (int i = 0; i < 16; ++i) {
                        const int at = 16 * part + i;
                        value[part][c][i] = at % 3 == c ? static_cast<uint8_t>(at / 3) : 0x80;
                    }
                }
            }
        }
    } masks;
    for (int part = 0; part < 3; ++part) {
        __m128i bytes = _mm_setzero_si128();
        for (int c = 0; c < 3; ++c) bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(*in[c], load(masks.value[part][c])));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * part), bytes);
    }
}

// 8 pixels; luma and centred chroma in 1/64, where all sums still fit 16 bits.
FS_TARGET inline void convert8(__m128i y, __m128i cb, __m128i cr, __m128i* rgb) {
    const __m128i center = _mm_set1_epi16(128);
    y = _mm_add_epi16(_mm_slli_epi16(y, 6), _mm_set1_epi16(32));
    cb = _mm_slli_epi16(_mm_sub_epi16(cb, center), 6);
    cr = _mm_slli_epi16(_mm_sub_epi16(cr, center), 6);
    // Factors above 1 are split into an integer and a fraction in 1/32768, as mulhrs needs.
    const __m128i red = _mm_add_epi16(cr, _mm_mulhrs_epi16(cr, _mm_set1_epi16(13173)));
    const __m128i blue = _mm_sub_epi16(_mm_slli_epi16(cb, 1), _mm_mulhrs_epi16(cb, _mm_set1_epi16(7471)));
    const __m128i green = _mm_add_epi16(_mm_mulhrs_epi16(cb, _mm_set1_epi16(11277)),
                                        _mm_mulhrs_epi16(cr, _mm_set1_epi16(23401)));
    rgb[0] = _mm_srai_epi16(_mm_adds_epi16(y, red), 6);
    rgb[1] = _mm_srai_epi16(_mm_subs_epi16(y, green), 6);
    rgb[2] = _mm_srai_epi16(_mm_adds_epi16(y, blue), 6);
}

FS_TARGET inline Rgb convert16(__m128i y, __m128i cb, __m128i cr) {
    const __m128i zero = _mm_setzero_si128();
    __m128i low[3], high[3];
    convert8(_mm_cvtepu8_epi16(y), _mm_cvtepu8_epi16(cb), _mm_cvtepu8_epi16(cr), low);
    convert8(_mm_unpackhi_epi8(y, zero), _mm_unpackhi_epi8(cb, zero), _mm_unpackhi_epi8(cr, zero), high);
    return {_mm_packus_epi16(low[0], high[0]), _mm_packus_epi16(low[1], high[1]), _mm_packus_epi16(low[2], high[2])};
}

template <bool Convert>
FS_TARGET void to_rgb(const uint8_t* a, const uint8_t* b, const uint8_t* c, int n, uint8_t* out) {
    for (int i = 0; i < n; i += 16) {
        const Rgb v = Convert ? convert16(load(a + i), load(b + i), load(c + i))
                              : Rgb{load(a + i), load(b + i), load(c + i)};
        if (n - i >= 16) {
            store_interleaved(v, out + 3 * i);
        } else {
            uint8_t rest[48];
            store_interleaved(v, rest);
            std::memcpy(out + 3 * i, rest, 3 * static_cast<size_t>(n - i));
        }
    }
}

}  // namespace

void ycc_to_rgb_sse41(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* out) {
    to_rgb<true>(y, cb, cr, n, out);
}

void planes_to_rgb_sse41(const uint8_t* r, const uint8_t* g, const uint8_t* b, int n, uint8_t* out) {
    to_rgb<false>(r, g, b, n, out);
}

}  // namespace fastsemi
#endif
