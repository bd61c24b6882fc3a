// The Python module blockenc._cuda: raw device addresses, sizes, strides and a stream handle in.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../cuda/launch.h"
#include "../job.h"

namespace py = pybind11;

namespace {

void launch(uintptr_t in, uintptr_t out, int in_type, int out_type, const py::tuple& shape,
            const py::tuple& in_stride, const py::tuple& out_stride, uintptr_t plan, int64_t plan_bytes,
            const std::string& header, int device, uintptr_t stream,
            const std::optional<std::tuple<int, int, int, bool, int>>& tuning) {
  auto numbers = [](const py::tuple& values) { return values.cast<std::vector<int64_t>>(); };
  if (header.size() != blockenc::kHeaderBytes) throw std::invalid_argument("header: expected that of a plan");
  const blockenc::Job job = blockenc::make_job(in, out, in_type, out_type, numbers(shape), numbers(in_stride),
                                               numbers(out_stride), plan, plan_bytes, header.data());
  blockenc::Tuning chosen;
  if (tuning)
    std::tie(chosen.threads, chosen.tile_bytes, chosen.least_tiles, chosen.padded, chosen.ahead) = *tuning;
  py::gil_scoped_release release;
  blockenc::launch(job, device, stream, chosen);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "Kernels of blockenc on CUDA devices; use blockenc.encrypt and blockenc.decrypt.";
  module.def("launch", &launch, "Enqueues the kernel on a stream, and returns before it has run.");
  module.def("missing", &blockenc::cuda_missing, "why no kernel can run here; \"\" if one can");
}
