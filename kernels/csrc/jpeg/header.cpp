#include "jpeg/header.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fastsemi {
namespace {

constexpr int64_t kBlock = 4096;  // bytes that are read at once, where no more are asked for

enum Marker : uint8_t {
    kFrame = 0xC0,  // baseline; the next two are extended and progressive
    kHuffman = 0xC4,
    kScan = 0xDA,
    kQuantisation = 0xDB,
    kRestart = 0xDD,
    kApp = 0xE0,
    kAppLast = 0xEF,
    kComment = 0xFE,
};

enum Tag : uint16_t { kOrientation = 0x0112, kResolution = 0x011A, kResolutionUnit = 0x0128 };

// Bytes of a value of each type of TIFF 6.0, from 1.
constexpr int64_t kTypeBytes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8};
constexpr uint16_t kShort = 3, kRational = 5;

uint16_t two(const uint8_t* p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }

bool begins(const uint8_t* p, int64_t length, const char* text, int64_t count) {
    return length >= count && std::memcmp(p, text, static_cast<size_t>(count)) == 0;
}

struct Closing {
    int file;
    ~Closing() { ::close(file); }
};

}  // namespace

bool HeaderReader::read(const std::string& path, int64_t max_pixels, JpegHeader& header) {
    // Without O_NONBLOCK a named pipe called x.jpg would hold the thread for ever.
    file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file_ < 0) return false;
    const Closing closing{file_};
    struct stat info;
    if (::fstat(file_, &info) != 0 || !S_ISREG(info.st_mode)) return false;
    size_ = info.st_size;
    start_ = held_ = 0;
    has_frame_ = has_exif_ = has_xmp_ = is_turned_ = false;
    header = {0, 0, 1};
    // XMP may say how the image lies where EXIF does not.
    return parse(max_pixels, header) && (is_turned_ || !has_xmp_);
}

// Some bytes of the file, valid until the next call; null where it ends before them.
const uint8_t* HeaderReader::bytes(int64_t at, int64_t count) {
    if (count < 0 || at + count > size_) return nullptr;
    if (at < start_ || at + count > start_ + held_) {
        block_.resize(static_cast<size_t>(std::max(count, kBlock)));
        start_ = at;
        held_ = 0;
        while (held_ < count) {
            const auto room = block_.size() - static_cast<size_t>(held_);
            const ssize_t n = ::pread(file_, block_.data() + held_, room, static_cast<off_t>(at + held_));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) return nullptr;
            held_ += n;
        }
    }
    return block_.data() + (at - start_);
}

// Segments up to the first scan, as ISO 10918-1, annex B has them.
bool HeaderReader::parse(int64_t max_pixels, JpegHeader& header) {
    const uint8_t* p = bytes(0, 2);
    if (!p || two(p) != 0xFFD8) return false;
    for (int64_t at = 2;;) {
        p = bytes(at, 4);
        if (!p || p[0] != 0xFF) return false;
        const uint8_t marker = p[1];
        const int64_t length = two(p + 2) - 2;
        at += 4;
        if (length < 0 || at + length > size_) return false;
        if (marker == kScan) return has_frame_;
        p = bytes(at, std::min<int64_t>(length, 32));
        if (!p) return false;
        switch (marker) {
            case kFrame:
            case kFrame + 1:
            case kFrame + 2:
                if (!read_frame(at, length, max_pixels, header)) return false;
                break;
            case kQuantisation:
                if (!tables_are_whole(at, length)) return false;
                break;
            case kHuffman:
            case kRestart:
            case kComment:
                break;
            case kApp:
                if (begins(p, length, "JFIF", 4) && length < 7) return false;
                break;
            case kApp + 1:
                if (begins(p, length, "Exif\0\0", 6)) {
                    if (has_exif_ || !read_exif(at + 6, length - 6, header)) return false;
                    has_exif_ = true;
                } else if (begins(p, length, "http://ns.adobe.com/xap/1.0/\0", 29)) {
                    has_xmp_ = true;
                }
                break;
            case kApp + 2:  // MPF: several images in one file
                if (begins(p, length, "MPF\0", 4)) return false;
                if (begins(p, length, "ICC_PROFILE\0", 12) && length < 14) return false;
                break;
            case kApp + 13:
                if (begins(p, length, "Photoshop 3.0\0", 14)) return false;
                break;
            case kApp + 14:
                if (begins(p, length, "Adobe", 5) && length < 7) return false;
                break;
            default:
                if (marker < kApp || marker > kAppLast) return false;
        }
        at += length;
    }
}

bool HeaderReader::read_frame(int64_t at, int64_t length, int64_t max_pixels, JpegHeader& header) {
    const uint8_t* p = bytes(at, length);
    if (!p || has_frame_ || length < 6) return false;
    const int parts = p[5];
    if (p[0] != 8 || (parts != 1 && parts != 3 && parts != 4) || length != 6 + 3 * parts) return false;
    header.height = two(p + 1);
    header.width = two(p + 3);
    has_frame_ = true;
    return header.width > 0 && header.height > 0 && static_cast<int64_t>(header.width) * header.height <= max_pixels;
}

bool HeaderReader::tables_are_whole(int64_t at, int64_t length) {
    const uint8_t* p = bytes(at, length);
    if (!p) return false;
    int64_t i = 0;
    while (i < length) i += p[i] >> 4 ? 129 : 65;  // of two bytes a value, or one
    return i == length;
}

// The first directory of an EXIF segment, `length` bytes from its TIFF header on, as TIFF 6.0 has it.
bool HeaderReader::read_exif(int64_t at, int64_t length, JpegHeader& header) {
    const uint8_t* p = length >= 8 ? bytes(at, 8) : nullptr;
    if (!p) return false;
    const bool big = begins(p, 4, "MM\0*", 4);
    if (!big && !begins(p, 4, "II*\0", 4)) return false;
    const auto u16 = [big](const uint8_t* q) { return big ? two(q) : static_cast<uint16_t>(q[1] << 8 | q[0]); };
    const auto u32 = [&](const uint8_t* q) -> int64_t {
        return big ? int64_t{u16(q)} << 16 | u16(q + 2) : int64_t{u16(q + 2)} << 16 | u16(q);
    };
    const int64_t place = u32(p + 4);
    if (place + 2 > length) return false;
    p = bytes(at + place, 2);
    if (!p) return false;
    const int64_t count = u16(p);
    if (place + 2 + 12 * count > length) return false;
    p = bytes(at + place + 2, 12 * count);
    if (!p) return false;
    int64_t outside = 0;  // bytes of values that stand elsewhere
    for (int64_t i = 0; i < count; ++i, p += 12) {
        const uint16_t tag = u16(p), type = u16(p + 2);
        const int64_t values = u32(p + 4);
        if (type < 1 || type > 12) return false;
        const int64_t bytes_of = values * kTypeBytes[type];
        if (bytes_of > 4) {
            outside += bytes_of;
            if (u32(p + 8) + bytes_of > length || outside > length) return false;
        }
        // Pillow looks at these two for the resolution, and fails at odd ones.
        if (tag == kResolution && (type != kRational || values != 1)) return false;
        if (tag == kResolutionUnit && (type != kShort || values != 1)) return false;
        if (tag != kOrientation) continue;
        if (is_turned_ || type != kShort || values != 1) return false;
        is_turned_ = true;
        const uint16_t value = u16(p + 8);
        header.orientation = value >= 1 && value <= 8 ? value : 1;
    }
    return true;
}

}  // namespace fastsemi
