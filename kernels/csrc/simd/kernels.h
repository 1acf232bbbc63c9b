// The inner loops, one implementation for each instruction set; the best one is chosen when the program runs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "simd/filter.h"

namespace fastsemi {

// Rows handed to a kernel may be read this many bytes past their end, and lines written as far.
constexpr int kPadding = 128;

// Distance of blocks of coefficients in memory: room for 64 and for some that are not used.
constexpr int kBlockStep = 72;

// A vector whose registers do not straddle lines of the cache: such loads and stores take twice as long.
template <class T>
struct LineAllocator {
    using value_type = T;
    static constexpr std::align_val_t line{64};
    LineAllocator() = default;
    template <class U>
    LineAllocator(const LineAllocator<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
    void deallocate(T* p, size_t) { ::operator delete(p, line); }
    bool operator==(const LineAllocator&) const { return true; }
    bool operator!=(const LineAllocator&) const { return false; }
};
template <class T>
using LineVector = std::vector<T, LineAllocator<T>>;

// The horizontal filter in the order that the shuffle kernels read it. Outputs come in groups; a group reads
// bytes base[g] + 2 step t onwards for tap pair t, `mask` picks the two bytes of each of its outputs.
struct RowFilter {
    int count = 0, taps = 0, groups = 0;
    int step = 1;                  // bytes from tap to tap: 1, or 3 within pixels
    int filled = 0;                // outputs of a group that count; the next group overwrites the others
    bool shuffled = false;         // else: start and weight hold one dot product per output
    bool loaded_once = false;      // all taps of a group lie among the bytes that a shuffle can choose from
    std::vector<int32_t> base;    // [groups], or the start of each output
    LineVector<uint8_t> mask;     // [groups][group][4]
    LineVector<int16_t> weight;   // [groups / lanes][taps / 2][lanes][group][2], or [count][taps]
};

// The vertical filter on pairs of rows: output o is a sum over the pairs start[o] to start[o] + pairs - 1, of which
// pair p is made of the rows 2 p and 2 p + 1.
struct ColumnFilter {
    int pairs = 0, end = 0;       // `end` is one past the last pair with a weight
    std::vector<int32_t> start;   // [count]
    std::vector<int16_t> weight;  // [count][pairs][2]
};

struct Kernels {
    const char* name;
    int group;         // outputs that one shuffle gathers for; 0: dot products only, over taps and not what lies between
    int lanes;         // groups in one register; groups are padded to a multiple of it
    int window;        // bytes a shuffle can choose from
    int dot_multiple;  // taps of dot products are padded to this
    // Filters two rows that lie `stride` apart: out[2 o] = clip((sum of weight * row[..] + half) >> kWeightBits), and
    // out[2 o + 1] of the second row, for all outputs, rounded up to registers.
    void (*horizontal)(const uint8_t* row, ptrdiff_t stride, const RowFilter& filter, int16_t* out);
    // The same over `pairs` lines of `horizontal`, two weights for each; writes n bytes rounded up to 64.
    void (*vertical)(int16_t* const* lines, const int16_t* weight, int pairs, int n, uint8_t* out);
    // Planar YCbCr (JFIF) or RGB to pixels; exactly 3 n bytes are written.
    void (*ycc_to_rgb)(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* out);
    void (*planes_to_rgb)(const uint8_t* r, const uint8_t* g, const uint8_t* b, int n, uint8_t* out);
    // 8 x 8 inverse DCT of `n` blocks that lie kBlockStep apart, each stored column by column; quant likewise.
    // dst[i] is the first of 8 rows.
    void (*idct)(const int16_t* coef, const uint16_t* quant, uint8_t* const* dst, ptrdiff_t stride, int n);
};

// The implementations this CPU can run, best first; the last is the portable one.
std::vector<const Kernels*> available_kernels();

// The axis of samples as that of `step` bytes in place of each, which are filtered alike. Between its taps lie `step`.
void interleave(const Axis& axis, int step, Axis& bytes);

// Lays `axis` out for `kernels`, for a row that begins with sample `origin`.
void build_row_filter(const Axis& axis, int origin, int step, const Kernels& kernels, RowFilter& filter);
void build_column_filter(const Axis& axis, ColumnFilter& filter);

// Inverse DCT to n x n samples, n = 4 or 2, from the n x n lowest coefficients. Layouts as in Kernels::idct.
void idct_shrunk(int n, const int16_t* coef, const uint16_t* quant, uint8_t* dst, ptrdiff_t stride);

extern const Kernels kPortableKernels;
#if defined(__x86_64__) || defined(__i386__)
#define FASTSEMI_X86 1
extern const Kernels kSse41Kernels, kAvx2Kernels, kAvx512Kernels;
#endif

}  // namespace fastsemi
