// Reading a whole file into memory that is kept between files.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fastsemi {

// Reads `path` to `bytes` and its length to `size`; `bytes` never shrinks. Returns why it failed, or nothing.
std::string read_file(const std::string& path, std::vector<uint8_t>& bytes, size_t& size);

}  // namespace fastsemi
