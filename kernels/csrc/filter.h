// Coefficients of one axis of an antialiased bicubic resize, expressed on the samples that were decoded.
#pragma once
#include <cstdint>
#include <vector>

namespace fastsemi {

// How a subsampled component is brought to full resolution by libjpeg, which the coefficients imitate.
enum class Upsampling { replicate, triangle };

// The samples of one component along one axis.
struct Grid {
    int size;               // samples that belong to the image, without padding to whole blocks
    int factor;             // pixels per sample: 1, 2, 3 or 4
    Upsampling upsampling;  // triangle only with factor 2
    int shrink;             // 1, 2 or 4: each block of 8 samples is decoded to 8 / shrink samples
};

// Output o is the sum over t of weight[o * taps + t] * sample[start[o] + t], in units of 2^kWeightBits.
struct Axis {
    int count = 0;  // outputs
    int taps = 0;   // a multiple of 2; weights past the window are zero
    int first = 0;  // smallest sample with a weight
    int last = 0;   // one past the largest sample with a weight
    std::vector<int32_t> start;
    std::vector<int16_t> weight;
};

constexpr int kWeightBits = 14;

// Working memory of build_axis, kept between calls.
struct FilterScratch {
    std::vector<float> pixel, sample, fine;
    std::vector<int32_t> pixel_start, sample_start, fine_start;
};

// Builds the resize of the pixels [origin, origin + length) to `count` outputs as Pillow's BICUBIC does it on
// the cropped image (a = -0.5, support widened by the ratio), then rewrites the weights for the grid's samples.
void build_axis(int origin, int length, int count, const Grid& grid, FilterScratch& scratch, Axis& axis);

}  // namespace fastsemi
