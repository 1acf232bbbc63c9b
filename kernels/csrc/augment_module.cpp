// Python's view of the augmentation; fastsemi/kernels/augment/cpu.py is its only user.
#include "augment_module.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "augment/augment.h"
#include "threads/team.h"

namespace py = pybind11;

namespace fastsemi {
namespace {

constexpr py::ssize_t kMaxSide = 1 << 13;  // positions are 32-bit integers

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// `object` as an array of T of `ndim` dimensions in C order; nothing is converted.
template <class T>
py::array as_array(const py::object& object, py::ssize_t ndim, const char* what) {
    require(py::isinstance<py::array_t<T, py::array::c_style>>(object), what);
    auto array = py::reinterpret_borrow<py::array>(object);
    require(array.ndim() == ndim, what);
    return array;
}

std::array<uint8_t, 3> as_colour(const py::object& object) {
    try {
        return object.cast<std::array<uint8_t, 3>>();
    } catch (const py::cast_error&) {
        throw std::invalid_argument("fill must be three integers from 0 to 255");
    }
}

const AugmentKernels& choose_kernels(const std::string& name) {
    const auto found = available_augment_kernels();
    if (name.empty()) return *found.front();
    for (const AugmentKernels* k : found) {
        if (name == k->name) return *k;
    }
    throw std::invalid_argument("this CPU cannot run the kernels '" + name + "'");
}

class Augmenter {
public:
    Augmenter(int threads, const std::string& kernels) : kernels_(choose_kernels(kernels)) {
        require(threads >= 1 && threads <= 1024, "threads must be 1 to 1024");
        team_.reset(new Team(threads));
    }

    // images, out: [B, H, W, 3] uint8, the same memory or apart; op [L, B] int64; arg [L, B] float32.
    void run(const py::object& images, const py::object& op, const py::object& arg, const py::object& fill,
             const py::object& out) {
        if (team_->foreign()) throw std::runtime_error("the operator was created before a fork");
        const char* kPixels = "images and out must be C-contiguous uint8 [B, H, W, 3] of one shape";
        const py::array in = as_array<uint8_t>(images, 4, kPixels);
        py::array to = as_array<uint8_t>(out, 4, kPixels);
        for (int d = 0; d < 4; ++d) require(in.shape(d) == to.shape(d), kPixels);
        require(in.shape(3) == 3 && to.writeable(), kPixels);
        const std::array<uint8_t, 3> colour = as_colour(fill);
        const auto batch = in.shape(0), height = in.shape(1), width = in.shape(2);
        require(height >= 1 && width >= 1 && height <= kMaxSide && width <= kMaxSide, "sides must be 1 to 8192");
        const py::array ops = as_array<int64_t>(op, 2, "op must be C-contiguous int64 [L, B]");
        const py::array args = as_array<float>(arg, 2, "arg must be C-contiguous float32 [L, B]");
        const auto layers = ops.shape(0);
        require(ops.shape(1) == batch && args.shape(1) == batch && args.shape(0) == layers,
                "op and arg must be [L, B] for B images");
        std::vector<AugmentStep> steps(static_cast<size_t>(batch * layers));
        for (py::ssize_t l = 0; l < layers; ++l) {
            for (py::ssize_t b = 0; b < batch; ++b) {
                const int64_t code = static_cast<const int64_t*>(ops.data())[l * batch + b];
                const float value = static_cast<const float*>(args.data())[l * batch + b];
                const char* wrong = check_step(code, value);
                require(!wrong, wrong);
                steps[static_cast<size_t>(b * layers + l)] = {static_cast<AugmentOp>(code), value};
            }
        }
        const auto* from = static_cast<const uint8_t*>(in.data());
        auto* target = static_cast<uint8_t*>(to.mutable_data());
        const size_t bytes = static_cast<size_t>(height * width * 3);
        const size_t total = bytes * static_cast<size_t>(batch);
        require(from == target || from + total <= target || target + total <= from, "images and out overlap");
        const py::gil_scoped_release release;
        team_->run(static_cast<size_t>(batch), [&](size_t b) {
            uint8_t* pixels = target + b * bytes;
            if (from != target) std::memcpy(pixels, from + b * bytes, bytes);
            augment_image(pixels, static_cast<int>(height), static_cast<int>(width),
                          steps.data() + b * static_cast<size_t>(layers), static_cast<int>(layers), colour.data(), kernels_);
        });
    }

    const char* kernels() const { return kernels_.name; }

private:
    const AugmentKernels& kernels_;
    std::unique_ptr<Team, TeamDeleter> team_;
};

}  // namespace

void bind_augment(pybind11::module_& m) {
    m.def("available_augment_kernels", [] {
        std::vector<std::string> names;
        for (const AugmentKernels* k : available_augment_kernels()) names.emplace_back(k->name);
        return names;
    });
    py::class_<Augmenter>(m, "Augmenter")
        .def(py::init<int, const std::string&>(), py::arg("threads"), py::arg("kernels") = "")
        .def("run", &Augmenter::run, py::arg("images"), py::arg("op"), py::arg("arg"), py::arg("fill"), py::arg("out"))
        .def_property_readonly("kernels", &Augmenter::kernels);
}

}  // namespace fastsemi
