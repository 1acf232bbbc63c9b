// Python's view of the operator; fastsemi/loaders/engines/native_operator.py is its only user.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>

#include "augment_module.h"
#include "files_module.h"
#include "threads/pool.h"

namespace py = pybind11;

namespace fastsemi {
namespace {

using Windows = py::array_t<int32_t, py::array::c_style>;
using Flips = py::array_t<bool, py::array::c_style>;
using Pixels = py::array_t<uint8_t, py::array::c_style>;
using Words = py::array_t<uint64_t, py::array::c_style>;
using Offsets = py::array_t<int64_t, py::array::c_style>;

const Kernels& choose_kernels(const std::string& name) {
    const auto found = available_kernels();
    if (name.empty()) return *found.front();
    for (const Kernels* k : found) {
        if (name == k->name) return *k;
    }
    throw std::invalid_argument("this CPU cannot run the kernels '" + name + "'");
}

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// A batch and the Python objects that it points into.
struct Ticket {
    std::shared_ptr<Batch> batch = std::make_shared<Batch>();
    std::vector<py::buffer_info> buffers;
    py::object out;
};

class Operator {
public:
    // words, starts: memory of what is learnt of each file, `words[starts[i]]` onwards of image i; none for no image.
    Operator(int threads, const std::string& kernels, bool use_baseline, Words words, Offsets starts)
        : kernels_(choose_kernels(kernels)), words_(std::move(words)), starts_(std::move(starts)) {
        require(words_.ndim() == 1 && words_.writeable() && starts_.ndim() == 1, "words and starts must be vectors");
        pool_.reset(new Pool(threads, kernels_, use_baseline));
    }

    // encoded: bytes-like objects, or file names as bytes when `files`. Arrays as in the wrapper's documentation.
    int64_t submit(const py::sequence& encoded, bool files, const Windows& windows, const Flips& flips, Pixels out,
                   int64_t max_pixels, const Windows& sizes, const Offsets& ids) {
        Ticket ticket = plan(static_cast<py::ssize_t>(encoded.size()), windows, flips, std::move(out), max_pixels, sizes);
        give_records(*ticket.batch, ids);
        for (size_t b = 0; b < ticket.batch->items.size(); ++b) {
            Batch::Item& item = ticket.batch->items[b];
            if (files) {
                item.path = encoded[b].cast<py::bytes>();
                continue;
            }
            ticket.buffers.push_back(encoded[b].cast<py::buffer>().request());
            const py::buffer_info& info = ticket.buffers.back();
            require(PyBuffer_IsContiguous(info.view(), 'C'), "encoded images must be contiguous");
            item.data = static_cast<const uint8_t*>(info.ptr);
            item.size = static_cast<size_t>(info.size * info.itemsize);
        }
        return start(std::move(ticket));
    }

    // Images of the given sizes whose pixels lie at `offsets` of an open file.
    int64_t submit_pixels(int file, const Offsets& offsets, const Windows& windows, const Flips& flips, Pixels out,
                          int64_t max_pixels, const Windows& sizes) {
        require(offsets.ndim() == 1 && file >= 0, "offsets must be [B], file must be open");
        Ticket ticket = plan(offsets.shape(0), windows, flips, std::move(out), max_pixels, sizes);
        for (py::ssize_t b = 0; b < offsets.shape(0); ++b) {
            Batch::Item& item = ticket.batch->items[b];
            require(item.limits.width > 0 && item.limits.height > 0, "the size of stored pixels must be known");
            item.pixels = file;
            item.offset = offsets.at(b);
        }
        return start(std::move(ticket));
    }

    // None when the time is over; else for each image (code, message): 0 done, 1 not a JPEG, 2 failed.
    py::object wait(int64_t id, double timeout) {
        const auto found = tickets_.find(id);
        require(found != tickets_.end(), "no such ticket, or it was waited for already");
        const std::shared_ptr<Batch> batch = found->second.batch;
        bool done;
        {
            const py::gil_scoped_release release;
            // Longer than a month overflows the clock.
            done = pool_->wait(*batch, std::chrono::duration<double>(std::min(timeout, 3e6)));
        }
        if (!done) return py::none();
        py::list result;
        for (const Outcome& o : batch->outcomes) result.append(py::make_tuple(static_cast<int>(o.status), o.message));
        tickets_.erase(id);
        return result;
    }

    void close() {
        {
            const py::gil_scoped_release release;
            pool_->close();
        }
        tickets_.clear();
    }

    // Views of pixels [H, W, 3]: windows [V, 4], flips [V], out [V] arrays of [S, S, 3].
    void resize(const Pixels& pixels, const Windows& windows, const Flips& flips, std::vector<Pixels> out) {
        require(pixels.ndim() == 3 && pixels.shape(2) == 3, "pixels must be [H, W, 3]");
        const auto views = static_cast<py::ssize_t>(out.size());
        require(windows.ndim() == 2 && windows.shape(0) == views && windows.shape(1) == 4, "windows must be [V, 4]");
        require(flips.ndim() == 1 && flips.shape(0) == views, "flips must be [V]");
        const int width = static_cast<int>(pixels.shape(1)), height = static_cast<int>(pixels.shape(0));
        std::vector<Window> list;
        int side = 0;
        for (py::ssize_t v = 0; v < views; ++v) {
            side = static_cast<int>(out[v].shape(0));
            require(out[v].ndim() == 3 && side > 0 && out[v].shape(1) == side && out[v].shape(2) == 3 &&
                        side == out[0].shape(0) && out[v].writeable(),
                    "out must be writeable arrays of [S, S, 3]");
            list.push_back({windows.at(v, 0), windows.at(v, 1), windows.at(v, 2), windows.at(v, 3), flips.at(v),
                            out[v].mutable_data()});
        }
        const std::string wrong = check_image(width, height, {0, 0, INT64_MAX}, list.data(), static_cast<int>(views));
        require(wrong.empty(), wrong.c_str());
        const uint8_t* data = pixels.data();
        const py::gil_scoped_release release;
        Views planes(kernels_);
        planes.plan({pixel_layout(width, height)}, Color::pixels, list.data(), static_cast<int>(views), side, false);
        const Views::Rows rows = planes.rows(height);
        const size_t stride = 3 * static_cast<size_t>(width);
        std::copy_n(data + stride * rows.first, stride * (rows.end - rows.first), rows.at);
        planes.finish();
    }

    // Seconds that the threads have spent so far on (reading, decoding, resizing), summed over threads.
    py::tuple times() const {
        const Times t = pool_->times();
        return py::make_tuple(t.read, t.decode, t.resize);
    }

    const char* kernels() const { return kernels_.name; }

private:
    // A batch of `count` images without their content.
    static Ticket plan(py::ssize_t count, const Windows& windows, const Flips& flips, Pixels out, int64_t max_pixels,
                       const Windows& sizes) {
        require(windows.ndim() == 3 && windows.shape(1) == count && windows.shape(2) == 4, "windows must be [V, B, 4]");
        const auto views = windows.shape(0);
        require(flips.ndim() == 2 && flips.shape(0) == views && flips.shape(1) == count, "flips must be [V, B]");
        require(sizes.ndim() == 2 && sizes.shape(0) == count && sizes.shape(1) == 2, "sizes must be [B, 2]");
        require(out.ndim() == 5 && out.shape(0) == views && out.shape(1) == count && out.shape(2) == out.shape(3) &&
                    out.shape(2) > 0 && out.shape(4) == 3 && out.writeable(),
                "out must be a writeable, contiguous [V, B, S, S, 3]");
        Ticket ticket;
        Batch& batch = *ticket.batch;
        batch.views = static_cast<int>(views);
        batch.side = static_cast<int>(out.shape(2));
        batch.items.resize(count);
        for (py::ssize_t b = 0; b < count; ++b) {
            batch.items[b].limits = {sizes.at(b, 0), sizes.at(b, 1), max_pixels};
            for (py::ssize_t v = 0; v < views; ++v) {
                batch.windows.push_back({windows.at(v, b, 0), windows.at(v, b, 1), windows.at(v, b, 2),
                                         windows.at(v, b, 3), flips.at(v, b), out.mutable_data(v, b)});
            }
        }
        ticket.out = std::move(out);
        return ticket;
    }

    // The memory of each image.
    void give_records(Batch& batch, const Offsets& ids) {
        if (starts_.size() == 0) return;
        require(ids.ndim() == 1 && ids.shape(0) == static_cast<py::ssize_t>(batch.items.size()), "ids must be [B]");
        for (py::ssize_t b = 0; b < ids.shape(0); ++b) {
            const int64_t id = ids.at(b);
            require(id >= 0 && id + 1 < starts_.shape(0), "ids must be images that the operator was made for");
            const int64_t start = starts_.at(id), end = starts_.at(id + 1);
            require(0 <= start && start <= end && end <= words_.shape(0), "starts must ascend within words");
            batch.items[b].record = {words_.mutable_data() + start, static_cast<size_t>(end - start)};
        }
    }

    int64_t start(Ticket ticket) {
        pool_->submit(ticket.batch);
        tickets_.emplace(++last_, std::move(ticket));
        return last_;
    }

    const Kernels& kernels_;
    Words words_;
    const Offsets starts_;
    std::map<int64_t, Ticket> tickets_;
    int64_t last_ = 0;
    std::unique_ptr<Pool, PoolDeleter> pool_;  // last, so that its threads end before the tickets go
};

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "JPEG decode and antialiased bicubic resize of planned windows, in threads without the GIL.";
    m.def("available_kernels", [] {
        std::vector<std::string> names;
        for (const Kernels* k : available_kernels()) names.emplace_back(k->name);
        return names;
    });
    py::class_<Operator>(m, "Operator")
        .def(py::init<int, const std::string&, bool, Words, Offsets>(), py::arg("threads"), py::arg("kernels") = "",
             py::arg("use_baseline") = true, py::arg("words").noconvert() = Words(0), py::arg("starts") = Offsets(0))
        .def("submit", &Operator::submit, py::arg("encoded"), py::arg("files"), py::arg("windows"), py::arg("flips"),
             py::arg("out").noconvert(), py::arg("max_pixels"), py::arg("sizes"), py::arg("ids") = Offsets(0))
        .def("submit_pixels", &Operator::submit_pixels, py::arg("file"), py::arg("offsets"), py::arg("windows"),
             py::arg("flips"), py::arg("out").noconvert(), py::arg("max_pixels"), py::arg("sizes"))
        .def("wait", &Operator::wait)
        .def("resize", &Operator::resize, py::arg("pixels"), py::arg("windows"), py::arg("flips"),
             py::arg("out").noconvert())
        .def("close", &Operator::close)
        .def("times", &Operator::times)
        .def_property_readonly("kernels", &Operator::kernels);
    bind_augment(m);
    bind_files(m);
}

}  // namespace fastsemi
