// Colour jitter and RandAugment of uint8 images; kernels/reference/color.py and warp.py are the specification.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastsemi {

// In the order of RANDAUGMENT_OPS (loaders/plan/types.py), which says what each argument means.
enum class AugmentOp {
    none = -1,
    autocontrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    count
};

struct AugmentStep {
    AugmentOp op;
    float arg;
};

// A rotation of an image whose pixels are four bytes (R, G, B, 0), its border repeated twice around it.
struct Rotation {
    const uint8_t* pixels;  // the first of the border
    ptrdiff_t pitch;        // bytes from row to row
    int width, height;
    double cos, sin, shift_x, shift_y;
    uint8_t fill[3];
};

// The inner loops for one instruction set. All give the same bytes. Pixels are R, G, B, one byte each.
struct AugmentKernels {
    const char* name;
    // out[i] = table[in[i]] of n bytes; `out` may be `in`.
    void (*lookup)(const uint8_t* in, const uint8_t* table, int n, uint8_t* out);
    // The same of n pixels with a table for each channel, [3][256].
    void (*lookup_channels)(const uint8_t* in, const uint8_t* table, int n, uint8_t* out);
    // Sum of the grey values of n pixels.
    int64_t (*sum_grey)(const uint8_t* in, int n);
    // Blends n pixels with their grey; `out` may be `in`.
    void (*saturate)(const uint8_t* in, int n, float factor, uint8_t* out);
    // Blends n bytes with the smoothed image: rows y - 1, y and y + 1, each read from -3 to n + 3.
    void (*sharpen)(const uint8_t* const* rows, int n, float factor, uint8_t* out);
    // Cubic interpolation of n bytes `fraction` of the way from taps[1] to taps[2].
    void (*shift)(const uint8_t* const* taps, int n, float fraction, uint8_t* out);
    // Row `row` of the rotated image.
    void (*rotate_row)(const Rotation& rotation, int row, uint8_t* out);
};

// The implementations this CPU can run, best first; the last is the portable one.
std::vector<const AugmentKernels*> available_augment_kernels();

// None, or what is wrong with a step.
const char* check_step(int64_t op, float arg);

// Applies checked steps in place to pixels [height, width, 3], with `fill` (R, G, B) outside of warped images.
void augment_image(uint8_t* pixels, int height, int width, const AugmentStep* steps, int count, const uint8_t* fill,
                   const AugmentKernels& kernels);

extern const AugmentKernels kPortableAugment;
#if defined(__x86_64__) || defined(__i386__)
extern const AugmentKernels kSse41Augment, kAvx2Augment, kAvx512Augment;
#endif

}  // namespace fastsemi
