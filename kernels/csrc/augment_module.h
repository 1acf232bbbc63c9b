// The part of the Python module that is in augment_module.cpp.
#pragma once
#include <pybind11/pybind11.h>

namespace fastsemi {

void bind_augment(pybind11::module_& m);

}  // namespace fastsemi
