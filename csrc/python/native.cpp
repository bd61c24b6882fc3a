// The Python module blockenc._native: raw addresses, sizes and strides in; the GIL released while it works.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../cpu/kernels.h"
#include "../cpu/plan_cache.h"
#include "../job.h"

namespace py = pybind11;

namespace {

void run(uintptr_t in, uintptr_t out, int in_type, int out_type, const py::tuple& shape,
         const py::tuple& in_stride, const py::tuple& out_stride, uintptr_t plan, int64_t plan_bytes,
         int threads, int level) {
  auto numbers = [](const py::tuple& values) { return values.cast<std::vector<int64_t>>(); };
  const blockenc::Job job =
      blockenc::make_job(in, out, in_type, out_type, numbers(shape), numbers(in_stride), numbers(out_stride),
                         plan, plan_bytes, reinterpret_cast<const void*>(plan));
  py::gil_scoped_release release;
  blockenc::run_job(job, threads, level);
}

py::tuple kept_plans() {
  const blockenc::Kept kept = blockenc::kept_plans();
  return py::make_tuple(kept.plans, kept.bytes);
}

// Fisher-Yates from the last place down, for each of `count` arrays of `length` numbers: place k changes with
// the place that was drawn for it. An array has length - 1 draws.
void shuffle(uintptr_t arrays, uintptr_t draws, int64_t count, int64_t length) {
  auto* array = reinterpret_cast<int64_t*>(arrays);
  const auto* drawn = reinterpret_cast<const int64_t*>(draws);
  for (int64_t n = 0; n < count; ++n, array += length) {
    for (int64_t place = length - 1; place > 0; --place, ++drawn) {
      if (*drawn < 0 || *drawn > place) throw std::invalid_argument("draws: expected places not yet taken");
      std::swap(array[place], array[*drawn]);
    }
  }
}

py::list level_names() {
  py::list names;
  int count;
  const blockenc::Level* all = blockenc::levels(&count);
  for (int k = 0; k < count; ++k) names.append(py::make_tuple(all[k].name, all[k].supported()));
  return names;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Kernels of blockenc on the CPU; use blockenc.encrypt and blockenc.decrypt.";
  module.def("run", &run, "Applies a plan to a batch, and keeps what it prepared for the next call.");
  module.def("shuffle", &shuffle, "Permutes arrays by what was drawn from a keystream.");
  module.def("kept_plans", &kept_plans, "(number, bytes) of the plans that are kept");
  module.def("levels", &level_names, "(name, supported by this processor) of each level, fastest first");
}
