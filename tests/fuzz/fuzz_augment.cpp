// libFuzzer target of the augmentation: any operations and arguments that pass the check, on images of any shape.
//
// Besides what the sanitizers find, it stops where two instruction sets give different bytes.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "augment/augment.h"

namespace {

using namespace fastsemi;

constexpr int kMaxSide = 72, kMaxSteps = 5, kStepBytes = 5, kHead = 6;

// Bytes as an argument: for odd choices any float at all, else one in the range where most is to be found.
float argument(const uint8_t* bytes, int choice, int op) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    if (choice & 1) return value;
    const int whole = bytes[0] | bytes[1] << 8;
    switch (static_cast<AugmentOp>(op)) {
        case AugmentOp::rotate: return static_cast<float>(whole - 32768) / 64.0f;
        case AugmentOp::posterize: return static_cast<float>(whole % 9);
        case AugmentOp::solarize: return static_cast<float>(whole % 1025) / 4.0f;
        case AugmentOp::solarize_add: return static_cast<float>(whole % 513) / 4.0f;
        default: return static_cast<float>(whole - 32768) / 16384.0f;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::vector<const AugmentKernels*> kernels = available_augment_kernels();
    if (size < kHead) return 0;
    const int height = 1 + data[0] % kMaxSide, width = 1 + data[1] % kMaxSide, wanted = data[2] % (kMaxSteps + 1);
    const uint8_t fill[3] = {data[3], data[4], data[5]};
    data += kHead;
    size -= kHead;
    std::vector<AugmentStep> steps;
    for (; static_cast<int>(steps.size()) < wanted && size >= kStepBytes; data += kStepBytes, size -= kStepBytes) {
        const int op = data[0] % 18 - 2;  // also -2 and 15, which are refused
        const float arg = argument(data + 1, data[0] / 18, op);
        if (!check_step(op, arg)) steps.push_back({static_cast<AugmentOp>(op), arg});
    }
    // What is left is pixels, repeated with a change so that small inputs make lively images.
    const size_t bytes = 3 * static_cast<size_t>(height) * static_cast<size_t>(width);
    std::vector<uint8_t> image(bytes);
    for (size_t i = 0; i < bytes; ++i) {
        image[i] = size ? static_cast<uint8_t>(data[i % size] + i / size) : static_cast<uint8_t>(i * i >> 3);
    }
    std::vector<uint8_t> first;
    for (const AugmentKernels* k : kernels) {
        // Of exactly the size, so that a byte too far is found.
        const std::unique_ptr<uint8_t[]> pixels(new uint8_t[bytes]);
        std::memcpy(pixels.get(), image.data(), bytes);
        augment_image(pixels.get(), height, width, steps.data(), static_cast<int>(steps.size()), fill, *k);
        if (first.empty()) {
            first.assign(pixels.get(), pixels.get() + bytes);
        } else if (std::memcmp(first.data(), pixels.get(), bytes) != 0) {
            std::fprintf(stderr, "%s differs from %s\n", k->name, kernels.front()->name);
            std::abort();
        }
    }
    return 0;
}
