#include "jpeg/jpeg.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include <jerror.h>

namespace fastsemi {
namespace {

// Real encoders write about ten scans, mozjpeg up to 64; each costs a pass over the whole image.
constexpr int kMaxScans = 100;

// Warnings after which pixels are made up. Other warnings (bytes between the data and the end marker, odd
// version numbers) leave the pixels as they were written.
bool is_damage(const jpeg_error_mgr& error) {
    const int code = error.msg_code, marker = error.msg_parm.i[1];
    return code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE ||
           code == JWRN_ARITH_BAD_CODE || code == JWRN_MUST_RESYNC ||
           (code == JWRN_EXTRANEOUS_DATA && marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7);
}

// Whether a progressive image lacks scans. libjpeg then guesses a smooth picture, which is not done here.
bool lacks_scans(const jpeg_decompress_struct& info) {
    if (!info.progressive_mode || !info.coef_bits) return false;
    for (int c = 0; c < info.num_components; ++c) {
        for (int i = 0; i < DCTSIZE2; ++i) {
            if (info.coef_bits[c][i] != 0) return true;  // -1: never sent; else bits that are still to come
        }
    }
    return false;
}

// Pillow's rule for CMYK as Adobe writes it, inverted: 255 - c and 255 - k are what the file holds.
inline uint8_t cmyk_channel(int inverted_color, int inverted_black) {
    const int product = (255 - inverted_color) * inverted_black + 128;
    return static_cast<uint8_t>(std::clamp(inverted_black - (((product >> 8) + product) >> 8), 0, 255));
}

}  // namespace

std::string check_image(int width, int height, const Limits& limits, const Window* windows, int count) {
    const auto size = [](int w, int h) { return std::to_string(w) + " x " + std::to_string(h); };
    if (static_cast<int64_t>(width) * height > limits.max_pixels) {
        return size(width, height) + " pixels exceed data.max_pixels of " + std::to_string(limits.max_pixels);
    }
    if (limits.width > 0 && (width != limits.width || height != limits.height)) {
        return "it is " + size(width, height) + " pixels but was " + size(limits.width, limits.height) +
               " when indexed: the index is stale (run once with --data.reindex true)";
    }
    for (int i = 0; i < count; ++i) {
        const Window& w = windows[i];
        if (w.left < 0 || w.top < 0 || w.width < 1 || w.height < 1 || w.width > width - w.left ||
            w.height > height - w.top) {
            return "window (" + std::to_string(w.left) + ", " + std::to_string(w.top) + ", " +
                   std::to_string(w.width) + ", " + std::to_string(w.height) + ") does not lie inside " +
                   size(width, height) + " pixels";
        }
    }
    return {};
}

// The parts that call libjpeg. An error in one of them jumps out of it, so none may own memory.
struct JpegDecoder::Step {
    [[noreturn]] static void leave(j_common_ptr info) {
        auto* guard = static_cast<Guard*>(info->err);
        guard->format_message(info, guard->text);
        std::longjmp(guard->jump, 1);
    }
    static void warn(j_common_ptr info, int level) {
        if (level < 0 && is_damage(*info->err)) leave(info);
    }
    static void count_scans(j_common_ptr info) {
        auto* decoder = reinterpret_cast<j_decompress_ptr>(info);
        if (decoder->input_scan_number <= kMaxScans) return;
        auto* guard = static_cast<Guard*>(info->err);
        std::snprintf(guard->text, sizeof guard->text, "more than %d scans", kMaxScans);
        std::longjmp(guard->jump, 1);
    }
    static bool run(JpegDecoder& d, void (*step)(JpegDecoder&)) {
        if (setjmp(d.guard_.jump)) return false;
        step(d);
        return true;
    }
    static void read_header(JpegDecoder& d) {
        jpeg_create_decompress(&d.info_);
        d.info_.progress = &d.progress_;
        jpeg_mem_src(&d.info_, d.data_, static_cast<unsigned long>(d.size_));
        jpeg_read_header(&d.info_, TRUE);
    }
    static void read_blocks(JpegDecoder& d) {
        auto* common = reinterpret_cast<j_common_ptr>(&d.info_);
        for (int c = 0; c < d.info_.num_components; ++c) {
            for (int y = d.views_.first_row(c); y < d.views_.end_row(c); ++y) {
                const BlockRow row = d.views_.begin_row(c, y, 0);
                JBLOCKARRAY blocks = d.info_.mem->access_virt_barray(common, d.coefficients_[c], y, 1, FALSE);
                for (int x = row.from; x < row.to; ++x) {
                    if (!row.need[x]) continue;
                    int16_t* slot = d.views_.slot(c);
                    for (int i = 0; i < 64; ++i) slot[(i % 8) * 8 + i / 8] = blocks[0][x][i];
                    d.views_.commit(c, x, y, row.need[x], false);
                }
            }
        }
    }
    static void read_cmyk(JpegDecoder& d) {
        d.info_.out_color_space = JCS_CMYK;
        jpeg_start_decompress(&d.info_);
        const size_t width = d.info_.output_width;
        uint8_t* in = d.row_.data();
        const Views::Rows rows = d.views_.rows(static_cast<int>(d.info_.output_height));
        while (d.info_.output_scanline < d.info_.output_height) {
            const int y = static_cast<int>(d.info_.output_scanline);
            jpeg_read_scanlines(&d.info_, &in, 1);
            if (y < rows.first || y >= rows.end) continue;
            uint8_t* out = rows.at + 3 * width * static_cast<size_t>(y - rows.first);
            for (size_t x = 0; x < width; ++x) {
                for (int c = 0; c < 3; ++c) out[3 * x + c] = cmyk_channel(in[4 * x + c], in[4 * x + 3]);
            }
        }
        jpeg_finish_decompress(&d.info_);
    }
};

Status JpegDecoder::fail(std::string message) {
    message_ = std::move(message);
    return Status::failed;
}

Status JpegDecoder::decode(const uint8_t* data, size_t size, const Limits& limits, const Window* windows, int count,
                           int side, Record record) {
    resize_seconds_ = 0;
    lacks_scans_ = false;
    if (size < 3 || data[0] != 0xff || data[1] != 0xd8 || data[2] != 0xff) return Status::not_jpeg;
    data_ = data;
    size_ = size;
    record_ = record;
    std::memset(&info_, 0, sizeof info_);
    std::memset(&progress_, 0, sizeof progress_);
    info_.err = jpeg_std_error(&guard_);
    guard_.error_exit = Step::leave;
    guard_.emit_message = Step::warn;
    progress_.progress_monitor = Step::count_scans;
    struct Release {
        jpeg_decompress_struct* info;
        ~Release() { jpeg_destroy_decompress(info); }
    } release{&info_};
    if (!Step::run(*this, Step::read_header)) return fail(guard_.text);
    const std::string wrong = check_image(static_cast<int>(info_.image_width), static_cast<int>(info_.image_height),
                                          limits, windows, count);
    if (!wrong.empty()) return fail(wrong);
    // Blown up from so few pixels it shows that Pillow resizes RGB, and views_ luma and chroma.
    if (std::min(info_.image_width, info_.image_height) < DCTSIZE) return Status::not_jpeg;
    const bool cmyk = info_.num_components == 4;
    if (info_.num_components != 1 && info_.num_components != 3 && !cmyk) {
        return fail("a JPEG with " + std::to_string(info_.num_components) + " components");
    }
    if (!(cmyk ? decode_cmyk(windows, count, side) : decode_blocks(windows, count, side))) {
        return lacks_scans_ ? Status::not_jpeg : fail(guard_.text);
    }
    const auto decoded = std::chrono::steady_clock::now();
    views_.finish();
    resize_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - decoded).count();
    return Status::ok;
}

// Describes the components; false where a quantisation table is missing or the sampling is fractional.
bool JpegDecoder::make_layout(bool latched) {
    layout_.clear();
    for (int i = 0; i < info_.num_components; ++i) {
        const jpeg_component_info& c = info_.comp_info[i];
        const int h = info_.max_h_samp_factor / c.h_samp_factor, v = info_.max_v_samp_factor / c.v_samp_factor;
        const int table = std::clamp(c.quant_tbl_no, 0, NUM_QUANT_TBLS - 1);
        const JQUANT_TBL* quant = latched ? c.quant_table : info_.quant_tbl_ptrs[table];
        const bool whole =
            h * c.h_samp_factor == info_.max_h_samp_factor && v * c.v_samp_factor == info_.max_v_samp_factor;
        if (!quant || !whole) {
            std::snprintf(guard_.text, sizeof guard_.text, whole ? "a quantisation table is missing"
                                                                 : "fractional chroma sampling");
            return false;
        }
        // libjpeg's "fancy upsampling": triangle filters for halves, replication for all other ratios.
        const bool wide = c.downsampled_width > 2;
        const auto kind = [](bool triangle) { return triangle ? Upsampling::triangle : Upsampling::replicate; };
        const Upsampling along_x = kind(h == 2 && v <= 2 && wide);
        const Upsampling along_y = kind(v == 2 && (h == 1 || (h == 2 && wide)));
        layout_.push_back({{static_cast<int>(c.downsampled_width), h, along_x, 1},
                           {static_cast<int>(c.downsampled_height), v, along_y, 1},
                           static_cast<int>(c.width_in_blocks),
                           static_cast<int>(c.height_in_blocks),
                           quant->quantval});
    }
    return true;
}

bool JpegDecoder::decode_blocks(const Window* windows, int count, int side) {
    const Color color = info_.num_components == 1                ? Color::gray
                        : info_.jpeg_color_space == JCS_YCbCr ? Color::ycc
                                                                 : Color::rgb;
    if (use_baseline && BaselineDecoder::knows(info_) && make_layout(false)) {
        views_.plan(layout_, color, windows, count, side, true);
        points_.open(record_, data_, size_);
        if (baseline_.decode(info_, info_.src->next_input_byte, info_.src->bytes_in_buffer, views_, points_)) {
            points_.save();
            return true;
        }
    }
    if (!Step::run(*this, [](JpegDecoder& d) { d.coefficients_ = jpeg_read_coefficients(&d.info_); })) return false;
    lacks_scans_ = lacks_scans(info_);
    if (lacks_scans_ || !make_layout(true)) return false;
    views_.plan(layout_, color, windows, count, side, true);
    return Step::run(*this, Step::read_blocks);
}

bool JpegDecoder::decode_cmyk(const Window* windows, int count, int side) {
    const int width = static_cast<int>(info_.image_width), height = static_cast<int>(info_.image_height);
    views_.plan({pixel_layout(width, height)}, Color::pixels, windows, count, side, false);
    row_.resize(4 * static_cast<size_t>(width));
    return Step::run(*this, Step::read_cmyk);
}

}  // namespace fastsemi
