// libFuzzer target of the native operator's JPEG path: headers, entropy decoding, inverse DCT, resize.
//
// Besides what the sanitizers find, it stops where the two entropy decoders accept an image and disagree, where
// the same image gives different bytes on another instruction set, or where what was learnt of an image changes its
// bytes or whether it is accepted. Forged entry points may give any bytes. The input is cut as stored pixels too.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "jpeg/jpeg.h"
#include "jpeg/pixels.h"

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

constexpr uint64_t kCountMask = 0xffff;

uint64_t mix(uint64_t state, uint64_t word) {
    state = (state ^ word) * 0x9e3779b97f4a7c15;
    return state << 29 | state >> 35;
}

// Random points with a check that holds, as kernels/csrc/jpeg/entry_points.cpp computes it; three in four lie
// within the data.
void forge(std::vector<uint64_t>& words, const uint8_t* choice, size_t size) {
    uint64_t random = 0, count = words.size() - 2;
    std::memcpy(&random, choice, sizeof random);
    uint64_t state = count;
    for (size_t i = 0; i < count; ++i) {
        random = mix(random, i + 1);
        const uint64_t bit = random % 4 ? (random >> 8) % (8 * size + 1) : random >> 36;
        words[2 + i] = bit << 36 | random >> 28;
        state = mix(state, words[2 + i]);
    }
    state = mix(state, words[0]);
    words[1] = ((state ^ state >> 32) & ~kCountMask) | count;
}

Result decode(JpegDecoder& decoder, const uint8_t* choice, const uint8_t* data, size_t size, Record record = {}) {
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
    result.status = decoder.decode(data, size, {0, 0, kMaxPixels}, windows, kViews, kSide, record);
    return result;
}

// The input as the pixels of an image in a file.
std::vector<uint8_t> cut_pixels(const Kernels& kernels, int file, const uint8_t* choice, int width, int height) {
    std::vector<uint8_t> out(kViews * kSide * kSide * 3);
    Window windows[kViews];
    for (int v = 0; v < kViews; ++v) {
        Window& w = windows[v];
        place(choice[4 * v], choice[4 * v + 1], width, &w.left, &w.width);
        place(choice[4 * v + 2], choice[4 * v + 3], height, &w.top, &w.height);
        w.flip = choice[4 * v] & 1;
        w.out = &out[static_cast<size_t>(v) * kSide * kSide * 3];
    }
    Views views(kernels);
    if (!read_pixels(file, 0, {width, height, kMaxPixels}, windows, kViews, kSide, views).empty()) std::abort();
    views.finish();
    return out;
}

void check_pixels(const Kernels& kernels, const uint8_t* choice, const uint8_t* data, size_t size) {
    static const int file = ::memfd_create("pixels", 0);
    const int pixels = static_cast<int>(size / 3);
    if (pixels == 0) return;
    const int width = 1 + (choice[1] << 8 | choice[2]) % pixels, height = pixels / width;
    if (::pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
    if (cut_pixels(kernels, file, choice, width, height) != cut_pixels(kPortableKernels, file, choice, width, height)) {
        std::fprintf(stderr, "instruction sets disagree on pixels\n");
        std::abort();
    }
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
    check_pixels(*kernels[choice[7] % kernels.size()], choice, data, size - 8);
    JpegDecoder& decoder = decoders[choice[7] % decoders.size()];
    const Result first = decode(decoder, choice, data, size - 8);
    // Learns while it cuts other windows, then these ones.
    std::vector<uint64_t> words(choice[6] % 64);
    const Record record{words.data(), words.size()};
    const uint8_t other[8] = {choice[3], choice[2], choice[1], choice[0], choice[5], choice[4], choice[7], choice[6]};
    decode(decoder, other, data, size - 8, record);
    for (int i = 0; i < 2; ++i) {
        const Result learnt = decode(decoder, choice, data, size - 8, record);
        if (learnt.status != first.status || (first.status == Status::ok && learnt.pixels != first.pixels)) {
            std::fprintf(stderr, "what was learnt changes the result\n");
            std::abort();
        }
    }
    if (words.size() > 2 && words[0] != 0) {
        forge(words, choice, size - 8);
        decode(decoder, choice, data, size - 8, record);
    }
    if (first.status != Status::ok) return 0;
    const Result second = decode(reference, choice, data, size - 8);
    if (second.status == Status::ok && first.pixels != second.pixels) {
        std::fprintf(stderr, "decoders disagree\n");
        std::abort();
    }
    return 0;
}
