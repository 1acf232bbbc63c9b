// Augmentation with SSE4.1: CPUs since 2008.
#include "augment/augment.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>

#include <cstring>

#define FS_TARGET __attribute__((target("sse4.1")))
#define FS_SHUFFLES
// As in portable.cpp.
#define FS_FUSED(a, b, c) static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c))

namespace fastsemi {
namespace {

#include "augment/loops.inc"
#include "augment/tables.inc"

}  // namespace

const AugmentKernels kSse41Augment = {"sse41", lookup, lookup_channels, sum_grey, saturate, sharpen, shift, rotate_row};

}  // namespace fastsemi
#endif
