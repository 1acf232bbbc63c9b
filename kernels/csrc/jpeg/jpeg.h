// One JPEG to all its views. Errors of libjpeg, and damage it only warns of, become a message.
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <jpeglib.h>

#include "jpeg/baseline.h"
#include "jpeg/views.h"

namespace fastsemi {

struct Limits {
    int width, height;   // of the image as the index knows it; 0 for unknown
    int64_t max_pixels;  // larger images are refused
};

// not_jpeg: left to Pillow, as are a progressive JPEG that lacks scans and one that is smaller than a block.
enum class Status { ok, not_jpeg, failed };

// Why windows cannot be cut from an image of this size; empty where they can.
std::string check_image(int width, int height, const Limits& limits, const Window* windows, int count);

// One object per thread, reused for many images.
class JpegDecoder {
public:
    explicit JpegDecoder(const Kernels& kernels) : views_(kernels) {}

    // Fills the `out` of every window. On `failed`, message() says why. What is learnt of the file stands in `record`
    // afterwards, and makes the next decode of the same bytes faster.
    Status decode(const uint8_t* data, size_t size, const Limits& limits, const Window* windows, int count, int side,
                  Record record = {});
    const std::string& message() const { return message_; }
    // Seconds of the last `decode` in which views were resized; the rest was decoding.
    double resize_seconds() const { return resize_seconds_; }

    // Off: every JPEG takes libjpeg's decoder. For tests.
    bool use_baseline = true;

    Views& views() { return views_; }

private:
    struct Guard : jpeg_error_mgr {
        std::jmp_buf jump;
        char text[JMSG_LENGTH_MAX];
    };
    struct Step;

    Status fail(std::string message);
    bool make_layout(bool latched);
    bool decode_blocks(const Window* windows, int count, int side);
    bool decode_cmyk(const Window* windows, int count, int side);

    Views views_;
    BaselineDecoder baseline_;
    EntryPoints points_;
    Record record_;
    jpeg_decompress_struct info_;
    jpeg_progress_mgr progress_;
    Guard guard_;
    jvirt_barray_ptr* coefficients_ = nullptr;
    const uint8_t* data_ = nullptr;
    size_t size_ = 0;
    std::vector<ComponentLayout> layout_;
    std::vector<uint8_t> row_;
    std::string message_;
    bool lacks_scans_ = false;
    double resize_seconds_ = 0;
};

}  // namespace fastsemi
