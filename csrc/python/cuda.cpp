// The Python module blockenc._cuda: raw device addresses, sizes, strides and a stream handle in.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "../cuda/launch.h"
#include "../job.h"

namespace py = pybind11;

namespace {

void apply(uintptr_t in, uintptr_t out, int in_type, int out_type, const py::tuple& shape,
           const py::tuple& in_stride, const py::tuple& out_stride, uintptr_t plan, int64_t plan_bytes,
           int block_size, int tables, int flags, int device, uintptr_t stream) {
  auto numbers = [](const py::tuple& values) { return values.cast<std::vector<int64_t>>(); };
  const blockenc::Job job =
      blockenc::make_job(in, out, in_type, out_type, numbers(shape), numbers(in_stride), numbers(out_stride),
                         plan, plan_bytes, block_size, tables, flags);
  py::gil_scoped_release release;
  blockenc::cuda_apply(job, device, stream);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "Kernels of blockenc on CUDA devices; use blockenc.encrypt and blockenc.decrypt.";
  module.def("apply", &apply);
  module.def("missing", &blockenc::cuda_missing, "why no kernel can run here; \"\" if one can");
}
