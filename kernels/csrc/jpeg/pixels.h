// Images that are stored as pixels, not encoded, inside of an open file.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>

#include "jpeg/jpeg.h"

namespace fastsemi {

// Reads the rows that the windows need of an image of limits.width x limits.height pixels, 3 bytes each, which
// begins at `offset`, and plans the views with them; Views::finish is left to do. Returns why it failed, or nothing.
std::string read_pixels(int file, off_t offset, const Limits& limits, const Window* windows, int count, int side,
                        Views& views);

}  // namespace fastsemi
