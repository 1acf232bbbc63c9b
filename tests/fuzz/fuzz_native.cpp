// libFuzzer target of the native operator's JPEG path: headers, entropy decoding, inverse DCT, resize.
//
// Besides what the sanitizers find, it stops where the two entropy decoders accept an image and disagree, or
// where the same image gives different bytes on another instruction set.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "jpeg/jpeg.h"

namespace {

using namespace fastsemi;

constexpr int kSide = 16, kViews = 2;
constexpr int64_t kMaxPixels = 256 * 256;

struct Result {
    Status status;
    std::vector<uint8_t> pixels;
};

// A window inside width x height from two bytes an axis.
void place(uint8_t from, uint8_t length, int size, int* start, int* extent) {
    *start = from * size / 256;
    *extent = 1 + length * (size - *start - 1) / 255;
}

Result decode(JpegDecoder& decoder, const uint8_t* choice, const uint8_t* data, size_t size) {
    // The decoder refuses windows outside the image, so the size must be known; a wrong guess is a test as well.
    int width = 1, height = 1;
    for (size_t i = 2; i + 9 < size; ++i) {
        if (data[i] == 0xff && data[i + 1] >= 0xc0 && data[i + 1] <= 0xc2) {
            height = data[i + 5] << 8 | data[i + 6];
            width = data[i + 7] << 8 | data[i + 8];
            break;
        }
    }
    Result result{Status::failed, std::vector<uint8_t>(kViews * kSide * kSide * 3)};
    Window windows[kViews];
    for (int v = 0; v < kViews; ++v) {
        Window& w = windows[v];
        place(choice[4 * v], choice[4 * v + 1], width, &w.left, &w.width);
        place(choice[4 * v + 2], choice[4 * v + 3], height, &w.top, &w.height);
        w.flip = choice[4 * v] & 1;
        w.out = &result.pixels[static_cast<size_t>(v) * kSide * kSide * 3];
    }
    result.status = decoder.decode(data, size, {0, 0, kMaxPixels}, windows, kViews, kSide);
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::vector<const Kernels*> kernels = available_kernels();
    static std::vector<JpegDecoder> decoders = [] {
        std::vector<JpegDecoder> all;
        for (const Kernels* k : kernels) all.emplace_back(*k);
        return all;
    }();
    static JpegDecoder reference(kPortableKernels);
    reference.use_baseline = false;
    // The last 8 bytes choose the windows, so that seeds are JPEGs as they are.
    if (size < 8) return 0;
    const uint8_t* choice = data + size - 8;
    const Result first = decode(decoders[choice[7] % decoders.size()], choice, data, size - 8);
    if (first.status != Status::ok) return 0;
    const Result second = decode(reference, choice, data, size - 8);
    if (second.status == Status::ok && first.pixels != second.pixels) {
        std::fprintf(stderr, "decoders disagree\n");
        std::abort();
    }
    return 0;
}
