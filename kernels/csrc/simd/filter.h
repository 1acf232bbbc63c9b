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

    bool operator==(const Grid& other) const {
        return size == other.size && factor == other.factor && upsampling == other.upsampling &&
               shrink == other.shrink;
    }
};

constexpr int kWeightBits = 14;

// Output o is the sum over t of weight(t, o) * sample[start[o] + t], in units of 2^kWeightBits.
struct Axis {
    int count = 0;  // outputs
    int taps = 0;   // a multiple of 2; unused ones have weight zero
    int first = 0;  // smallest sample with a weight
    int last = 0;   // one past the largest sample with a weight
    std::vector<int32_t> start;
    std::vector<int16_t> pairs;  // [taps / 2][count][2]
};

// Working memory of build_axis, kept between calls. Weights are [taps][count]: loops over outputs vectorise.
struct FilterScratch {
    struct Stage {
        int taps = 0;
        std::vector<float> weight;
        std::vector<int32_t> start, end;  // samples with a weight, for each output
    };
    Stage pixels, samples, shrunk;
    std::vector<float> offset, sum, total;
    std::vector<int32_t> rounded;
};

// Builds the resize of the pixels [origin, origin + length) to `count` outputs as Pillow's BICUBIC does it on
// the cropped image (a = -0.5, support widened by the ratio), then rewrites the weights for the grid's samples.
// With `mirror`, outputs come in reverse order.
void build_axis(int origin, int length, int count, bool mirror, const Grid& grid, FilterScratch& scratch, Axis& axis);

}  // namespace fastsemi
