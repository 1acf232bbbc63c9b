// Python's view of many files' times and headers; fastsemi/loaders/index/look.py is its only user.
#include "files_module.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "jpeg/header.h"

namespace py = pybind11;

namespace fastsemi {
namespace {

std::vector<std::string> as_paths(const py::list& names) {
    std::vector<std::string> paths;
    for (const py::handle& name : names) paths.push_back(name.cast<py::bytes>());
    return paths;
}

// [N, 2] time of change in nanoseconds and length in bytes; 0, -1 where there is nothing, length -1 for no file.
py::array_t<int64_t> file_stamps(const py::list& names) {
    const std::vector<std::string> paths = as_paths(names);
    py::array_t<int64_t> stamps({static_cast<py::ssize_t>(paths.size()), py::ssize_t{2}});
    int64_t* out = stamps.mutable_data();
    const py::gil_scoped_release release;
    for (const std::string& path : paths) {
        struct stat info;
        const bool found = ::stat(path.c_str(), &info) == 0;
        *out++ = found ? int64_t{info.st_mtim.tv_sec} * 1000000000 + info.st_mtim.tv_nsec : 0;
        *out++ = found && S_ISREG(info.st_mode) ? int64_t{info.st_size} : -1;
    }
    return stamps;
}

// [N, 3] width, height and EXIF orientation; -1 where another reader must judge.
py::array_t<int32_t> jpeg_headers(const py::list& names, int64_t max_pixels) {
    const std::vector<std::string> paths = as_paths(names);
    py::array_t<int32_t> headers({static_cast<py::ssize_t>(paths.size()), py::ssize_t{3}});
    int32_t* out = headers.mutable_data();
    const py::gil_scoped_release release;
    HeaderReader reader;
    for (const std::string& path : paths) {
        JpegHeader header;
        if (!reader.read(path, max_pixels, header)) header = {-1, -1, -1};
        *out++ = header.width;
        *out++ = header.height;
        *out++ = header.orientation;
    }
    return headers;
}

}  // namespace

void bind_files(py::module_& m) {
    m.def("file_stamps", &file_stamps, py::arg("names"));
    m.def("jpeg_headers", &jpeg_headers, py::arg("names"), py::arg("max_pixels"));
}

}  // namespace fastsemi
