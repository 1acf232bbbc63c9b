// Colour conversion and interleaving of 16 pixels at a time, for the SSE4.1 and AVX2 kernels.
#pragma once
#include <cstdint>

namespace fastsemi {

void ycc_to_rgb_sse41(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* out);
void planes_to_rgb_sse41(const uint8_t* r, const uint8_t* g, const uint8_t* b, int n, uint8_t* out);

}  // namespace fastsemi
