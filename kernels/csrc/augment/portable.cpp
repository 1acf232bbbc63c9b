// Augmentation on any CPU.
#include <cstring>

#include "augment/augment.h"

#define FS_TARGET
#ifdef FP_FAST_FMAF
#define FS_FUSED(a, b, c) __builtin_fmaf(a, b, c)
#else
// A product of floats is exact in double. Rounding the sum twice could differ from rounding it once only where
// the first lands within 2^-29 of a tie.
#define FS_FUSED(a, b, c) static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c))
#endif

namespace fastsemi {
namespace {

#include "augment/loops.inc"
#include "augment/tables.inc"

}  // namespace

const AugmentKernels kPortableAugment = {"portable", lookup, lookup_channels, sum_grey, saturate, sharpen, shift, rotate_row};

}  // namespace fastsemi
