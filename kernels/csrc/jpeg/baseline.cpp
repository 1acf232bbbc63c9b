#include "jpeg/baseline.h"

#include <algorithm>
#include <cstring>

// Compiled once for each instruction set that a caller has.
#define FASTSEMI_INLINE __attribute__((always_inline)) inline

namespace fastsemi {

struct BaselineDecoder::Scan {
    struct Part {
        int component, h, v;  // blocks of a minimum coded unit
        const HuffmanTable *dc, *ac;
        int prediction;
    };
    Part parts[4];
    int count, unit_cols, unit_rows, last_row;
    unsigned restart_interval;
    const uint8_t* bytes;
    const std::vector<size_t>* segments;
};

namespace {

// One block can take 65 symbols of 31 bits; that much may be read past the end before it is noticed.
constexpr size_t kOverrun = 65 * 4 + 64;

// Position, in a block stored column by column, of coefficient k - 1 in zigzag order; past the end, a dummy.
struct Order {
    uint8_t position[512];
    Order() {
        int row = 0, col = 0;
        for (int k = 0; k < 64; ++k) {
            position[k + 1] = static_cast<uint8_t>(8 * col + row);
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
        position[0] = 64;
        for (int k = 65; k < 512; ++k) position[k] = 64;
    }
};
const Order kOrder;

// Bits are consumed from the top of `bits`. The low 6 bits of `count` say how many of them are valid; bits above
// are garbage, because whole table entries are subtracted.
struct Reader {
    const uint8_t* at;
    const uint8_t* end;
    uint64_t bits;
    uint32_t count;

    // At least 56 bits are valid afterwards.
    void refill() {
        uint64_t next;
        std::memcpy(&next, at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        next = __builtin_bswap64(next);
#endif
        bits |= next >> (count & 63);
        at += ~count >> 3 & 7;
        count |= 56;
    }
    // The low 6 bits of the entry are the number of bits.
    void skip(uint32_t entry) {
        bits <<= entry & 63;
        count -= entry;
    }
    bool overrun() const { return at - (count >> 3 & 7) > end; }
    // How many bits after `start` the next one is.
    uint64_t bit(const uint8_t* start) const { return 8 * static_cast<uint64_t>(at - start) - (count & 63); }
};

enum class Result { bad, only_dc, full };

// One block; without Store only the DC prediction is kept. `block` has 65 values, the last one a dummy.
template <bool Store>
FASTSEMI_INLINE Result decode_block(Reader& reader, const HuffmanTable& dc, const HuffmanTable& ac, int& prediction,
                                    int16_t* block) {
    Reader r = reader;
    r.refill();
    uint32_t entry = dc.find(r.bits);
    if (entry == 0) return Result::bad;
    prediction = static_cast<int>(static_cast<unsigned>(prediction) + magnitude(r.bits, entry));
    if (Store) block[0] = static_cast<int16_t>(prediction);
    r.skip(entry);
    unsigned k = 1;  // one past the last coefficient
    for (;;) {
        // 56 bits are enough for five look-ups, or for one symbol of any length.
        r.refill();
        uint64_t pair = 0;
        for (int i = 0; i < 5; ++i) {
            const uint64_t before = r.bits;
            pair = ac.pair[before >> (64 - HuffmanTable::kLookup)];
            if (__builtin_expect(pair == 0, 0)) break;
            const unsigned first = k + (pair >> 8 & 255);
            k = first + (pair >> 16 & 255);
            if (Store) {
                block[kOrder.position[first]] = static_cast<int16_t>(pair >> 32);
                block[kOrder.position[k]] = static_cast<int16_t>(pair >> 48);
            }
            r.skip(static_cast<uint32_t>(pair));
            if (k < 64) continue;
            if (first >= 64 && k > first) {
                // The block was full with the first symbol, the second belongs to the next block.
                r.bits = before << (pair >> 24 & 63);
                r.count += static_cast<uint32_t>((pair & 63) - (pair >> 24 & 63));
                k = first;
            }
            goto done;
        }
        if (pair != 0) continue;
        r.refill();
        entry = ac.find(r.bits);
        if (entry == 0) return Result::bad;
        k += (entry >> 24) + 1;
        if (Store) block[kOrder.position[k]] = static_cast<int16_t>(magnitude(r.bits, entry));
        r.skip(entry);
        if (k >= 64) break;
    }
done:
    reader = r;
    // Past the end of the block only by "end of block".
    if (k > 64 && k < HuffmanTable::kEndOfBlock) return Result::bad;
    return k == HuffmanTable::kEndOfBlock + 2 ? Result::only_dc : Result::full;
}

// The place of the decoder in a scan; the predictions belong to it.
struct Cursor {
    Reader reader;
    size_t segment;
    unsigned until_restart;
    int unit;
};

// The blocks of a row of units that are needed, and its columns of units with one.
struct Row {
    int number, from, to;
    const uint8_t* need[3][4];
};

Row begin_row(const BaselineDecoder::Scan& scan, Views& views, int number) {
    Row row{number, scan.unit_cols, 0, {}};
    for (int i = 0; i < scan.count; ++i) {
        const auto& p = scan.parts[i];
        for (int y = 0; y < p.v; ++y) {
            const BlockRow blocks = views.begin_row(p.component, number * p.v + y, y);
            row.need[i][y] = blocks.need;
            if (blocks.from >= blocks.to) continue;
            row.from = std::min(row.from, blocks.from / p.h);
            row.to = std::max(row.to, (blocks.to + p.h - 1) / p.h);
        }
    }
    return row;
}

// Goes to a known place. False where it lies outside of its segment.
bool enter(BaselineDecoder::Scan& scan, const EntryPoints& points, int number, Cursor& cursor) {
    const EntryPoint point = points.at(number);
    const unsigned unit = static_cast<unsigned>(points.unit(number)), interval = scan.restart_interval;
    const std::vector<size_t>& segments = *scan.segments;
    const size_t segment = interval ? unit / interval : 0;
    if (segment >= segments.size()) return false;
    const size_t start = segment ? segments[segment - 1] : 0;
    if (point.bit / 8 < start || point.bit / 8 > segments[segment]) return false;
    cursor = {{scan.bytes + point.bit / 8, scan.bytes + segments[segment], 0, 0},
              segment, interval ? interval - unit % interval : 0, static_cast<int>(unit)};
    cursor.reader.refill();
    cursor.reader.skip(point.bit % 8);
    for (int i = 0; i < scan.count; ++i) scan.parts[i].prediction = point.prediction[i];
    return true;
}

// Decodes the units before `end`, all of `row` with Store.
template <bool Store>
FASTSEMI_INLINE bool decode_units(BaselineDecoder::Scan& scan, Views& views, EntryPoints& points, Cursor& cursor,
                                  int end, const Row* row) {
    const std::vector<size_t>& segments = *scan.segments;
    int16_t unused[65];
    for (; cursor.unit < end; ++cursor.unit) {
        if (scan.restart_interval && cursor.until_restart-- == 0) {
            if (++cursor.segment == segments.size()) return false;
            cursor.reader = {scan.bytes + segments[cursor.segment - 1], scan.bytes + segments[cursor.segment], 0, 0};
            for (int i = 0; i < scan.count; ++i) scan.parts[i].prediction = 0;
            cursor.until_restart = scan.restart_interval - 1;
        }
        if (cursor.unit == points.next()) {
            EntryPoint point{cursor.reader.bit(scan.bytes), {}};
            for (int i = 0; i < scan.count; ++i) point.prediction[i] = scan.parts[i].prediction;
            points.note(point);
        }
        const int col = Store ? cursor.unit - row->number * scan.unit_cols : 0;
        for (int i = 0; i < scan.count; ++i) {
            auto& p = scan.parts[i];
            for (int b = 0; b < p.v * p.h; ++b) {
                const int y = b / p.h, x = col * p.h + b % p.h, wanted = Store ? row->need[i][y][x] : 0;
                Result result;
                if (wanted) {
                    result = decode_block<true>(cursor.reader, *p.dc, *p.ac, p.prediction, views.slot(p.component));
                    views.commit(p.component, x, row->number * p.v + y, wanted, result == Result::only_dc);
                } else {
                    result = decode_block<false>(cursor.reader, *p.dc, *p.ac, p.prediction, unused);
                }
                if (result == Result::bad || cursor.reader.overrun()) return false;
            }
        }
    }
    return true;
}

// What no view needs is passed over from one known place to the next, or decoded where none is known: damage there
// is found in either case, now or when it became known.
FASTSEMI_INLINE bool skip_units(BaselineDecoder::Scan& scan, Views& views, EntryPoints& points, Cursor& cursor,
                                int end) {
    const int number = points.before(end);
    if (points.unit(number) > cursor.unit && !enter(scan, points, number, cursor)) return false;
    return decode_units<false>(scan, views, points, cursor, end, nullptr);
}

// Decodes up to the last row with a block that is needed.
FASTSEMI_INLINE bool decode_rows(BaselineDecoder::Scan& scan, Views& views, EntryPoints& points) {
    Cursor cursor{{scan.bytes, scan.bytes + (*scan.segments)[0], 0, 0}, 0, scan.restart_interval, 0};
    for (int number = 0; number < scan.last_row; ++number) {
        const Row row = begin_row(scan, views, number);
        if (row.from >= row.to) continue;
        const int start = number * scan.unit_cols;
        if (!skip_units(scan, views, points, cursor, start + row.from)) return false;
        if (!decode_units<true>(scan, views, points, cursor, start + row.to, &row)) return false;
    }
    const int end = scan.last_row * scan.unit_cols;
    return points.unit(points.known()) >= end || skip_units(scan, views, points, cursor, end);
}

#if defined(__x86_64__) || defined(__i386__)
__attribute__((target("bmi,bmi2"))) bool decode_rows_bmi2(BaselineDecoder::Scan& scan, Views& views,
                                                               EntryPoints& points) {
    return decode_rows(scan, views, points);
}
#endif

bool decode_rows_portable(BaselineDecoder::Scan& scan, Views& views, EntryPoints& points) {
    return decode_rows(scan, views, points);
}

}  // namespace

bool BaselineDecoder::knows(const jpeg_decompress_struct& info) {
    return !info.progressive_mode && !info.arith_code && info.data_precision == 8 &&
           info.comps_in_scan == info.num_components && info.comps_in_scan <= 3 && info.Ss == 0 &&
           info.Se == 63 && info.Ah == 0 && info.Al == 0;
}

bool BaselineDecoder::prepare(const jpeg_decompress_struct& info, Scan& scan) {
    const bool single = info.comps_in_scan == 1;
    scan.count = info.comps_in_scan;
    scan.restart_interval = info.restart_interval;
    const int unit = 8 * info.max_h_samp_factor, unit_height = 8 * info.max_v_samp_factor;
    scan.unit_cols = single ? static_cast<int>(info.cur_comp_info[0]->width_in_blocks)
                            : (static_cast<int>(info.image_width) + unit - 1) / unit;
    scan.unit_rows = single ? static_cast<int>(info.cur_comp_info[0]->height_in_blocks)
                            : (static_cast<int>(info.image_height) + unit_height - 1) / unit_height;
    int blocks = 0;
    for (int i = 0; i < scan.count; ++i) {
        const jpeg_component_info& c = *info.cur_comp_info[i];
        if (c.dc_tbl_no < 0 || c.dc_tbl_no > 3 || c.ac_tbl_no < 0 || c.ac_tbl_no > 3) return false;
        HuffmanTable &dc = dc_[c.dc_tbl_no], &ac = ac_[c.ac_tbl_no];
        if (!dc.build(info.dc_huff_tbl_ptrs[c.dc_tbl_no], true)) return false;
        if (!ac.build(info.ac_huff_tbl_ptrs[c.ac_tbl_no], false)) return false;
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
        const uint8_t* code = mark + 1;
        while (code < end && *code == 0xff) ++code;
        if (code == end) return false;
        in = code + 1;
        if (*code == 0) {
            // Several 0xff before the zero are against the standard, and libjpeg has its own way with them.
            if (code != mark + 1) return false;
            *out++ = 0xff;
            continue;
        }
        segment_.push_back(out - bytes_.data());
        if (*code == 0xd9) break;
        if (*code != 0xd0 + restart) return false;
        restart = (restart + 1) & 7;
    }
    std::memset(out, 0, kOverrun);
    return true;
}

bool BaselineDecoder::decode(const jpeg_decompress_struct& info, const uint8_t* data, size_t size, Views& views,
                             EntryPoints& points) {
    Scan scan;
    if (!prepare(info, scan) || !unstuff(data, size)) return false;
    scan.last_row = 0;
    for (int i = 0; i < scan.count; ++i) {
        const Scan::Part& p = scan.parts[i];
        scan.last_row = std::max(scan.last_row, (views.end_row(p.component) + p.v - 1) / p.v);
    }
    scan.bytes = bytes_.data();
    scan.segments = &segment_;
    points.begin(scan.unit_cols * scan.unit_rows);
#if defined(__x86_64__) || defined(__i386__)
    if (__builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")) return decode_rows_bmi2(scan, views, points);
#endif
    return decode_rows_portable(scan, views, points);
}

}  // namespace fastsemi
