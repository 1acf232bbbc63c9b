// Entropy decoder of the JPEGs most data sets consist of: Huffman coded, sequential, 8 bits, one scan.
//
// It decodes the blocks that the views need, skips over the others and stops after the last of them; what was
// decoded before it passes over from one entry point to the next. What it does not know, or finds damaged, it
// declines; libjpeg then decodes the file or says what is wrong with it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <jpeglib.h>

#include "jpeg/entry_points.h"
#include "jpeg/huffman.h"
#include "jpeg/views.h"

namespace fastsemi {

class BaselineDecoder {
public:
    // Whether the scan that jpeg_read_header stopped at is of the kind this decoder knows.
    static bool knows(const jpeg_decompress_struct& info);

    // Decodes the scan at `data`, where jpeg_read_header stopped, into `views`, which was planned. `points` was opened
    // for the file, and knows more of it afterwards.
    // Returns false where the scan is damaged or truncated: `views` must be planned again.
    bool decode(const jpeg_decompress_struct& info, const uint8_t* data, size_t size, Views& views,
                EntryPoints& points);

    struct Scan;

private:
    bool prepare(const jpeg_decompress_struct& info, Scan& scan);
    bool unstuff(const uint8_t* data, size_t size);

    HuffmanTable dc_[4], ac_[4];
    std::vector<uint8_t> bytes_;   // entropy-coded data without stuffing
    std::vector<size_t> segment_;  // ends of the segments between restart markers
};

}  // namespace fastsemi
