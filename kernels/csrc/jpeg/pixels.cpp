#include "jpeg/pixels.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fastsemi {
namespace {

// Rows are read in pieces that stay in the second-level cache until they are taken apart.
constexpr size_t kPiece = size_t{128} << 10;

}  // namespace

std::string read_pixels(int file, off_t offset, const Limits& limits, const Window* windows, int count, int side,
                        Views& views, std::vector<uint8_t>& buffer) {
    const int width = limits.width, height = limits.height;
    std::string wrong = check_image(width, height, limits, windows, count);
    if (!wrong.empty()) return wrong;
    views.plan({3, full_component(width, height)}, Color::rgb, windows, count, side, false);
    const size_t stride = 3 * static_cast<size_t>(width);
    const int end = std::min(height, 8 * views.end_row(0));
    const int step = static_cast<int>(std::max<size_t>(1, kPiece / stride));
    for (int y = 8 * views.first_row(0); y < end; y += step) {
        const int rows = std::min(step, end - y);
        const size_t size = stride * rows;
        if (buffer.size() < size + kRowPadding) buffer.resize(size + kRowPadding);
        for (size_t done = 0; done < size;) {
            const off_t at = offset + static_cast<off_t>(stride * y + done);
            const ssize_t n = ::pread(file, buffer.data() + done, size - done, at);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return std::strerror(errno);
            if (n == 0) return "the file ends inside of it";
            done += static_cast<size_t>(n);
        }
        for (int row = 0; row < rows; ++row) views.fill_row(y + row, buffer.data() + stride * row);
    }
    return {};
}

}  // namespace fastsemi
