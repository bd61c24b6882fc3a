// The Python module blockenc._native: raw addresses, sizes and strides in; the GIL released while it works.

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace py = pybind11;

namespace {

// Fills [n, c, h, w] from a tuple of three or four numbers; three are an image, a batch of one.
void four(const py::tuple& values, int64_t* out, int64_t leading) {
  const size_t size = values.size();
  if (size != 3 && size != 4) throw std::invalid_argument("shape: expected 3 or 4 numbers");
  out[0] = leading;
  for (size_t k = 0; k < size; ++k) out[4 - size + k] = values[k].cast<int64_t>();
}

void apply(uintptr_t in, uintptr_t out, int in_type, int out_type, const py::tuple& shape,
           const py::tuple& in_stride, const py::tuple& out_stride, uintptr_t plan, int64_t plan_bytes,
           int block_size, int tables, int flags, int threads, int level) {
  blockenc::Job job;
  int64_t sizes[4];
  four(shape, sizes, 1);
  four(in_stride, job.in_stride, 0);
  four(out_stride, job.out_stride, 0);
  job.in = reinterpret_cast<const void*>(in);
  job.out = reinterpret_cast<void*>(out);
  job.in_type = static_cast<blockenc::Type>(in_type);
  job.out_type = static_cast<blockenc::Type>(out_type);
  job.n = sizes[0];
  job.h = sizes[2];
  job.w = sizes[3];
  const int64_t expected = blockenc::unpack_plan(reinterpret_cast<const void*>(plan), block_size,
                                                 static_cast<int>(sizes[1]), tables, flags, &job.plan);
  if (expected != plan_bytes) {
    throw std::invalid_argument("plan: expected " + std::to_string(expected) +
                                " bytes for this scheme, got " + std::to_string(plan_bytes));
  }
  py::gil_scoped_release release;
  blockenc::apply(job, threads, level);
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
  module.def("apply", &apply);
  module.def("levels", &level_names, "(name, supported by this processor) of each level, fastest first");
}
