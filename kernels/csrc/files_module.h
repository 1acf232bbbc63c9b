// The part of the Python module that is in files_module.cpp.
#pragma once
#include <pybind11/pybind11.h>

namespace fastsemi {

void bind_files(pybind11::module_& m);

}  // namespace fastsemi
