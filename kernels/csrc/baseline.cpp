#include "baseline.h"

#include <algorithm>
#include <cstring>

namespace fastsemi {
struct BaselineDecoder::Scan {
    struct Part {
        int component, h, v;  // blocks of a minimum coded unit
        const Table *dc, *ac;
        int prediction;
    };
    Part parts[4];
    int count, unit_cols, unit_rows, last_row;
    unsigned restart_interval;
    const uint8_t* bytes;
    const std::vector<size_t>* segments;
};

namespace {

using Table = BaselineDecoder::Table;
constexpr int kLookup = BaselineDecoder::kLookup;

// One block can take 65 symbols of 31 bits; that much may be read past the end before it is noticed.
constexpr size_t kOverrun = 65 * 4 + 64;

// Added to the position by "end of block", so that it leaves the block whatever the position was.
constexpr unsigned kEndOfBlock = 128;

// Position in a block stored column by column of coefficient k in zigzag order; past the end, a dummy.
struct Order {
    uint8_t position[320];
    Order() {
        int row = 0, col = 0;
        for (int k = 0; k < 64; ++k) {
            position[k] = static_cast<uint8_t>(8 * col + row);
            const bool up = (row + col) % 2 == 0;
            if (up && col == 7) {
                ++row;
            } else if (up && row == 0) {
                ++col;
            } else if (up) {
                --row, ++col;
            } else if (row == 7) {
                ++col;
            } else if (col == 0) {
                ++row;
            } else {
                ++row, --col;
            }
        }
        for (int k = 64; k < 320; ++k) position[k] = 64;
    }
};
const Order kOrder;

inline int extend(int bits, int size) { return size == 0 ? 0 : bits >> (size - 1) ? bits : bits - (1 << size) + 1; }

inline uint32_t code_entry(int length, int symbol, bool dc) {
    const unsigned size = dc ? symbol : symbol & 15;
    const unsigned run = dc || size ? (dc ? 0 : symbol >> 4) : (symbol == 0xf0 ? 15 : kEndOfBlock);
    return run << 24 | size << 16 | static_cast<unsigned>(length) << 8 | (length + size);
}

bool build_table(const JHUFF_TBL* source, bool dc, Table& table) {
    if (!source) return false;
    uint8_t key[17 + 256];
    std::memcpy(key, source->bits, 17);
    std::memcpy(key + 17, source->huffval, 256);
    if (table.valid && !std::memcmp(key, table.key, sizeof key)) return true;
    table.valid = false;
    std::memset(table.code, 0, sizeof table.code);
    std::memcpy(table.symbol, source->huffval, 256);
    int code = 0, index = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
        table.offset[length] = index - code;
        for (int i = 0; i < source->bits[length]; ++i, ++code, ++index) {
            if (index > 255 || code >= 1 << length || (dc && source->huffval[index] > 15)) return false;
            if (length > kLookup) continue;
            const uint32_t entry = code_entry(length, source->huffval[index], dc);
            std::fill_n(table.code + (code << (kLookup - length)), 1 << (kLookup - length), entry);
        }
        table.max_code[length] = source->bits[length] ? code - 1 : -1;
    }
    for (int i = 0; i < 1 << kLookup; ++i) {
        const uint32_t entry = table.code[i];
        const int total = entry & 255, size = entry >> 16 & 255;
        table.value[i] = 0;
        if (entry == 0 || total > kLookup) continue;
        const int magnitude = extend(i >> (kLookup - total) & ((1 << size) - 1), size);
        table.value[i] = static_cast<int32_t>(static_cast<uint32_t>(magnitude) << 16 | (entry >> 24) << 8 | total);
    }
    std::memcpy(table.key, key, sizeof key);
    return table.valid = true;
}

// Bits are consumed from the top of `bits`; at least `count` of them are valid.
struct Reader {
    const uint8_t* at;
    const uint8_t* end;
    uint64_t bits;
    unsigned count;

    void refill() {
        uint64_t next;
        std::memcpy(&next, at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        next = __builtin_bswap64(next);
#endif
        bits |= next >> count;
        at += (63 - count) >> 3;
        count |= 56;
    }
    void skip(unsigned n) {
        bits <<= n;
        count -= n;
    }
    bool overrun() const { return at - (count >> 3) > end; }
};

// A code longer than kLookup bits. Returns 0 where there is no such code.
uint32_t long_code(const Table& table, uint64_t bits) {
    for (int length = kLookup + 1; length <= 16; ++length) {
        const int code = static_cast<int>(bits >> (64 - length));
        if (code <= table.max_code[length]) {
            return code_entry(length, table.symbol[code + table.offset[length]], table.dc);
        }
    }
    return 0;
}

inline uint32_t find_code(const Table& table, uint64_t bits) {
    const uint32_t entry = table.code[bits >> (64 - kLookup)];
    return __builtin_expect(entry == 0, 0) ? long_code(table, bits) : entry;
}

// The magnitude bits after a code, as a signed value.
inline int magnitude(uint64_t bits, uint32_t entry) {
    const unsigned size = entry >> 16 & 15;
    const uint64_t rest = bits << (entry >> 8 & 31);
    const int negative = static_cast<int>(~static_cast<int64_t>(rest) >> 63);
    return static_cast<int>((rest >> 1) >> (63 - size)) + (negative & (1 - (1 << size)));
}

enum class Result { bad, only_dc, full };

// One block; without Store only the DC prediction is kept. `block` has 65 values, the last one a dummy.
template <bool Store>
__attribute__((always_inline)) inline Result decode_block(Reader& reader, const Table& dc, const Table& ac, int& prediction,
                                                          int16_t* block) {
    Reader r = reader;
    r.refill();
    uint32_t entry = find_code(dc, r.bits);
    if (entry == 0) return Result::bad;
    prediction = static_cast<int>(static_cast<unsigned>(prediction) + magnitude(r.bits, entry));
    if (Store) block[0] = static_cast<int16_t>(prediction);
    r.skip(entry & 63);
    unsigned k = 1;
    // After a refill there are bits for five short symbols, or for one of any length.
    for (;;) {
        r.refill();
        int32_t value = 0;
        for (int i = 0; i < 4; ++i) {
            value = ac.value[r.bits >> (64 - kLookup)];
            if (__builtin_expect(value == 0, 0)) break;
            k += value >> 8 & 255;
            if (Store) block[kOrder.position[k]] = static_cast<int16_t>(value >> 16);
            r.skip(value & 63);
            if (++k >= 64) goto done;
        }
        if (value != 0) continue;
        r.refill();
        entry = find_code(ac, r.bits);
        if (entry == 0) return Result::bad;
        k += entry >> 24;
        if (Store) block[kOrder.position[k]] = static_cast<int16_t>(magnitude(r.bits, entry));
        r.skip(entry & 63);
        if (++k >= 64) break;
    }
done:
    reader = r;
    // Past the end of the block only by "end of block".
    if (k > 64 && k < kEndOfBlock) return Result::bad;
    return k == kEndOfBlock + 2 ? Result::only_dc : Result::full;
}

// Decodes minimum coded units up to the last row with a block that is needed.
__attribute__((always_inline)) inline bool decode_rows(BaselineDecoder::Scan& scan, Views& views) {
    const std::vector<size_t>& segments = *scan.segments;
    size_t segment = 0;
    Reader reader{scan.bytes, scan.bytes + segments[0], 0, 0};
    unsigned until_restart = scan.restart_interval;
    int16_t unused[65];
    for (int row = 0; row < scan.last_row; ++row) {
        const uint8_t* need[3][4];
        for (int i = 0; i < scan.count; ++i) {
            auto& p = scan.parts[i];
            for (int y = 0; y < p.v; ++y) need[i][y] = views.begin_row(p.component, row * p.v + y, y);
        }
        for (int col = 0; col < scan.unit_cols; ++col) {
            if (scan.restart_interval && until_restart-- == 0) {
                if (++segment == segments.size()) return false;
                reader = {scan.bytes + segments[segment - 1], scan.bytes + segments[segment], 0, 0};
                for (int i = 0; i < scan.count; ++i) scan.parts[i].prediction = 0;
                until_restart = scan.restart_interval - 1;
            }
            for (int i = 0; i < scan.count; ++i) {
                auto& p = scan.parts[i];
                for (int b = 0; b < p.v * p.h; ++b) {
                    const int y = b / p.h, x = col * p.h + b % p.h, wanted = need[i][y][x];
                    Result result;
                    if (wanted) {
                        result = decode_block<true>(reader, *p.dc, *p.ac, p.prediction, views.slot(p.component));
                        views.commit(p.component, x, row * p.v + y, wanted, result == Result::only_dc);
                    } else {
                        result = decode_block<false>(reader, *p.dc, *p.ac, p.prediction, unused);
                    }
                    if (result == Result::bad || reader.overrun()) return false;
                }
            }
        }
    }
    return true;
}

#if defined(__x86_64__) || defined(__i386__)
__attribute__((target("bmi,bmi2"))) bool decode_rows_bmi2(BaselineDecoder::Scan& scan, Views& views) {
    return decode_rows(scan, views);
}
#endif

bool decode_rows_portable(BaselineDecoder::Scan& scan, Views& views) { return decode_rows(scan, views); }

}  // namespace

bool BaselineDecoder::knows(const jpeg_decompress_struct& info) {
    return !info.progressive_mode && !info.arith_code && info.data_precision == 8 &&
           info.comps_in_scan == info.num_components && info.comps_in_scan <= 3 && info.Ss == 0 &&
           info.Se == 63 && info.Ah == 0 && info.Al == 0;
}

bool BaselineDecoder::prepare(const jpeg_decompress_struct& info, Scan& scan) {
    const bool single = info.comps_in_scan == 1;
    const auto divide = [](int a, int b) { return (a + b - 1) / b; };
    scan.count = info.comps_in_scan;
    scan.restart_interval = info.restart_interval;
    const int width = static_cast<int>(info.image_width), height = static_cast<int>(info.image_height);
    const jpeg_component_info& first = *info.cur_comp_info[0];
    scan.unit_cols = single ? static_cast<int>(first.width_in_blocks) : divide(width, 8 * info.max_h_samp_factor);
    scan.unit_rows = single ? static_cast<int>(first.height_in_blocks) : divide(height, 8 * info.max_v_samp_factor);
    int blocks = 0;
    for (int i = 0; i < scan.count; ++i) {
        const jpeg_component_info& c = *info.cur_comp_info[i];
        if (c.dc_tbl_no < 0 || c.dc_tbl_no > 3 || c.ac_tbl_no < 0 || c.ac_tbl_no > 3) return false;
        Table &dc = dc_[c.dc_tbl_no], &ac = ac_[c.ac_tbl_no];
        dc.dc = true;
        ac.dc = false;
        if (!build_table(info.dc_huff_tbl_ptrs[c.dc_tbl_no], true, dc)) return false;
        if (!build_table(info.ac_huff_tbl_ptrs[c.ac_tbl_no], false, ac)) return false;
        const int h = single ? 1 : c.h_samp_factor, v = single ? 1 : c.v_samp_factor;
        scan.parts[i] = {c.component_index, h, v, &dc, &ac, 0};
        blocks += h * v;
    }
    return blocks <= D_MAX_BLOCKS_IN_MCU;
}

// Removes stuffed zero bytes and splits the data at restart markers. False where it does not end in EOI.
bool BaselineDecoder::unstuff(const uint8_t* data, size_t size) {
    if (bytes_.size() < size + kOverrun) bytes_.resize(size + kOverrun);
    segment_.clear();
    uint8_t* out = bytes_.data();
    const uint8_t *in = data, *end = data + size;
    int restart = 0;
    for (;;) {
        const auto* mark = static_cast<const uint8_t*>(std::memchr(in, 0xff, end - in));
        if (!mark) return false;
        std::memcpy(out, in, mark - in);
        out += mark - in;
        do {
            if (++mark == end) return false;
        } while (*mark == 0xff);
        in = mark + 1;
        if (*mark == 0) {
            *out++ = 0xff;
            continue;
        }
        segment_.push_back(out - bytes_.data());
        if (*mark == 0xd9) break;
        if (*mark != 0xd0 + restart) return false;
        restart = (restart + 1) & 7;
    }
    std::memset(out, 0, kOverrun);
    return true;
}

bool BaselineDecoder::decode(const jpeg_decompress_struct& info, const uint8_t* data, size_t size, Views& views) {
    Scan scan;
    if (!prepare(info, scan) || !unstuff(data, size)) return false;
    scan.last_row = 0;
    for (int i = 0; i < scan.count; ++i) {
        const Scan::Part& p = scan.parts[i];
        scan.last_row = std::max(scan.last_row, (views.end_row(p.component) + p.v - 1) / p.v);
    }
    scan.bytes = bytes_.data();
    scan.segments = &segment_;
#if defined(__x86_64__) || defined(__i386__)
    if (__builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")) return decode_rows_bmi2(scan, views);
#endif
    return decode_rows_portable(scan, views);
}

}  // namespace fastsemi
