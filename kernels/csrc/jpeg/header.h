// The size of a JPEG and how its EXIF says that it lies, from a few kilobytes of its file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace fastsemi {

struct JpegHeader {
    int32_t width, height;
    int32_t orientation;  // 1 to 8
};

// Reads headers; one object per thread, reused for many files.
class HeaderReader {
public:
    // False where another reader must judge: a file that is no plain JPEG, is damaged, claims more than
    // `max_pixels` pixels or cannot be opened. True only where Pillow finds the same size and orientation.
    bool read(const std::string& path, int64_t max_pixels, JpegHeader& header);

private:
    bool parse(int64_t max_pixels, JpegHeader& header);
    bool read_frame(int64_t at, int64_t length, int64_t max_pixels, JpegHeader& header);
    bool read_exif(int64_t at, int64_t length, JpegHeader& header);
    bool tables_are_whole(int64_t at, int64_t length);
    const uint8_t* bytes(int64_t at, int64_t count);

    int file_ = -1;
    int64_t size_ = 0, start_ = 0, held_ = 0;  // of the file; of what `block_` holds of it
    std::vector<uint8_t> block_;
    bool has_frame_ = false, has_exif_ = false, has_xmp_ = false, is_turned_ = false;
};

}  // namespace fastsemi
