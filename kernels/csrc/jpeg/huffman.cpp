#include "jpeg/huffman.h"

#include <algorithm>
#include <cstring>

namespace fastsemi {
namespace {

constexpr int kLookup = HuffmanTable::kLookup;

uint32_t code_entry(int length, int symbol, bool dc) {
    const unsigned size = dc ? symbol : symbol & 15;
    unsigned run = dc ? 0 : symbol >> 4;
    if (!dc && size == 0 && run != 15) run = HuffmanTable::kEndOfBlock;
    return run << 24 | size << 16 | static_cast<unsigned>(length) << 8 | (length + size);
}

// A symbol with its magnitude that is complete in the top `left` bits of the kLookup bits `index`.
struct Symbol {
    uint32_t bits = 0, advance = 0;
    int value = 0;

    Symbol(const HuffmanTable& table, unsigned index, unsigned left) {
        const uint32_t entry = table.code[index];
        if (entry == 0 || (entry & 255) > left) return;
        bits = entry & 255;
        advance = (entry >> 24) + 1;
        value = magnitude(static_cast<uint64_t>(index) << (64 - kLookup), entry);
    }
};

}  // namespace

uint32_t HuffmanTable::find_long(uint64_t bits) const {
    for (int length = kLookup + 1; length <= 16; ++length) {
        const int at = static_cast<int>(bits >> (64 - length));
        if (at <= max_code_[length]) return code_entry(length, symbol_[at + offset_[length]], dc_);
    }
    return 0;
}

void HuffmanTable::build_pairs() {
    for (unsigned i = 0; i < 1u << kLookup; ++i) {
        pair[i] = 0;
        const Symbol first(*this, i, kLookup);
        if (first.bits == 0) continue;
        uint32_t bits = first.bits, advance = 0;
        int value = first.value;
        if (first.advance <= kEndOfBlock && first.bits < kLookup) {
            const Symbol second(*this, i << first.bits & ((1u << kLookup) - 1), kLookup - first.bits);
            if (second.bits) {
                bits += second.bits;
                advance = second.advance;
                value = second.value;
            }
        }
        pair[i] = static_cast<uint64_t>(static_cast<uint16_t>(value)) << 48 |
                  static_cast<uint64_t>(static_cast<uint16_t>(first.value)) << 32 | first.bits << 24 | advance << 16 |
                  first.advance << 8 | bits;
    }
}

bool HuffmanTable::build(const JHUFF_TBL* source, bool is_dc) {
    if (!source) return false;
    // Most files carry the standard's tables, so the last ones are kept.
    uint8_t key[sizeof key_];
    std::memcpy(key, source->bits, 17);
    std::memcpy(key + 17, source->huffval, 256);
    if (valid_ && !std::memcmp(key, key_, sizeof key)) return true;
    valid_ = false;
    dc_ = is_dc;
    std::memset(code, 0, sizeof code);
    std::memcpy(symbol_, source->huffval, sizeof symbol_);
    int next = 0, index = 0;
    for (int length = 1; length <= 16; ++length, next <<= 1) {
        offset_[length] = index - next;
        for (int i = 0; i < source->bits[length]; ++i, ++next, ++index) {
            if (index > 255 || next >= 1 << length || (dc_ && source->huffval[index] > 15)) return false;
            if (length > kLookup) continue;
            const uint32_t entry = code_entry(length, source->huffval[index], dc_);
            std::fill_n(code + (next << (kLookup - length)), 1 << (kLookup - length), entry);
        }
        max_code_[length] = source->bits[length] ? next - 1 : -1;
    }
    if (!dc_) build_pairs();
    std::memcpy(key_, key, sizeof key);
    return valid_ = true;
}

}  // namespace fastsemi
