// Tables that turn the next bits of a JPEG's entropy-coded data into symbols and coefficients.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include <jpeglib.h>

namespace fastsemi {

struct HuffmanTable {
    static constexpr int kLookup = 10;  // bits that one look-up resolves
    // Run length of "end of block": leaves the block whatever the position was.
    static constexpr unsigned kEndOfBlock = 128;

    // AC tables only: one or two symbols with their magnitudes where they fit into the looked-up bits, else 0.
    // second value << 48 | first value << 32 | bits of the first << 24 | advance of the second << 16 |
    // advance of the first << 8 | bits of all. An advance is run + 1. Where there is no second symbol its
    // advance is 0 and its value that of the first.
    uint64_t pair[1 << kLookup];
    // One symbol whose code fits, else 0: run << 24 | magnitude bits << 16 | code bits << 8 | bits of both.
    uint32_t code[1 << kLookup];

    // False where the file's table is missing or impossible.
    bool build(const JHUFF_TBL* source, bool is_dc);

    // The symbol at the top of `bits`, as in `code`, with codes of any length. 0 where there is no such code.
    uint32_t find(uint64_t bits) const {
        const uint32_t entry = code[bits >> (64 - kLookup)];
        return __builtin_expect(entry == 0, 0) ? find_long(bits) : entry;
    }

private:
    uint32_t find_long(uint64_t bits) const;
    void build_pairs();

    int32_t max_code_[17];  // largest code of each length, -1 for none
    int32_t offset_[17];    // index of a code's symbol minus the code
    uint8_t symbol_[256];
    bool dc_ = false;
    uint8_t key_[17 + 256];  // what the table was built from
    bool valid_ = false;
};

// The magnitude after the code of `entry` (as in HuffmanTable::code) at the top of `bits`, as a signed value.
inline int magnitude(uint64_t bits, uint32_t entry) {
    const unsigned size = entry >> 16 & 15;
    const uint64_t rest = bits << (entry >> 8 & 31);
    const int negative = static_cast<int>(~static_cast<int64_t>(rest) >> 63);
    return static_cast<int>((rest >> 1) >> (63 - size)) + (negative & (1 - (1 << size)));
}

}  // namespace fastsemi
