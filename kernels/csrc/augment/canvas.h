// The state of one image between its operations. Not part of the interface, which is augment.h.
#pragma once
#include <cstdint>
#include <cstring>

#include "augment/augment.h"

namespace fastsemi {

// An image and the pointwise operations that wait to be applied to it: any number of them are one lookup.
class Canvas {
public:
    Canvas(uint8_t* pixels, int height, int width, const uint8_t* fill, const AugmentKernels& kernels)
        : pixels_(pixels), height_(height), width_(width), count_(height * width), fill_(fill), kernels_(kernels) {}

    void apply(AugmentOp op, float arg);
    // Applies what waits.
    void flush();

private:
    // Appends a function of a byte to all channels, or of a channel and a byte.
    template <class F>
    void append(F&& f) {
        for (int c = 0; c < (per_channel_ ? 3 : 1); ++c) {
            for (int v = 0; v < 256; ++v) table_[c][v] = f(waits_ ? table_[c][v] : v);
        }
        waits_ = true;
    }
    template <class F>
    void append_channels(F&& f) {
        for (int c = 2; c >= 0; --c) {
            const uint8_t* before = table_[per_channel_ ? c : 0];
            for (int v = 0; v < 256; ++v) table_[c][v] = f(c, waits_ ? before[v] : v);
        }
        waits_ = per_channel_ = true;
    }
    void lookup(const uint8_t* in, int count, uint8_t* out) const {
        if (per_channel_) {
            kernels_.lookup_channels(in, table_[0], count, out);
        } else {
            kernels_.lookup(in, table_[0], 3 * count, out);
        }
    }
    void histogram(uint32_t (*counts)[256]) const;
    void autocontrast();
    void equalize();
    void contrast(float factor);
    void saturate(float factor);
    void sharpness(float factor);
    void rotate(double degrees);
    void shift_rows(double shear, double offset);
    void shift_columns(double shear);
    void move_rows(double offset);
    void shift_line(const uint8_t* line, int length, double offset, uint8_t* out) const;
    void fill(uint8_t* out, int begin, int end) const {
        for (int i = begin; i < end; ++i) std::memcpy(out + 3 * i, fill_, 3);
    }

    uint8_t* const pixels_;
    const int height_, width_, count_;
    const uint8_t* const fill_;
    const AugmentKernels& kernels_;
    bool waits_ = false, per_channel_ = false;
    uint8_t table_[3][256];
};

}  // namespace fastsemi
