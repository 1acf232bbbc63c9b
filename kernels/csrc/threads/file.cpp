#include "threads/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace fastsemi {
namespace {

struct Descriptor {
    int value;
    ~Descriptor() {
        if (value >= 0) ::close(value);
    }
};

}  // namespace

std::string read_file(const std::string& path, std::vector<uint8_t>& bytes, size_t& size) {
    size = 0;
    // Without O_NONBLOCK a named pipe called x.jpg would hold the thread for ever.
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    struct stat info;
    if (file.value < 0 || ::fstat(file.value, &info) != 0) return std::strerror(errno);
    if (!S_ISREG(info.st_mode)) return "not a regular file";
    const auto length = static_cast<size_t>(info.st_size);
    if (bytes.size() < length) bytes.resize(length + length / 4);
    while (size < length) {
        const ssize_t n = ::pread(file.value, bytes.data() + size, length - size, static_cast<off_t>(size));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return std::strerror(errno);
        if (n == 0) return "the file became shorter while it was read";
        size += static_cast<size_t>(n);
    }
    return {};
}

}  // namespace fastsemi
