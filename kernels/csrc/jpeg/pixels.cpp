#include "jpeg/pixels.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace fastsemi {
std::string read_pixels(int file, off_t offset, const Limits& limits, const Window* windows, int count, int side,
                        Views& views) {
    const int width = limits.width, height = limits.height;
    std::string wrong = check_image(width, height, limits, windows, count);
    if (!wrong.empty()) return wrong;
    views.plan({pixel_layout(width, height)}, Color::pixels, windows, count, side, false);
    const Views::Rows rows = views.rows(height);
    const size_t stride = 3 * static_cast<size_t>(width), size = stride * static_cast<size_t>(rows.end - rows.first);
    const off_t begin = offset + static_cast<off_t>(stride) * rows.first;
    for (size_t done = 0; done < size;) {
        const ssize_t n = ::pread(file, rows.at + done, size - done, begin + static_cast<off_t>(done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return std::strerror(errno);
        if (n == 0) return "the file ends inside of it";
        done += static_cast<size_t>(n);
    }
    return {};
}

}  // namespace fastsemi
