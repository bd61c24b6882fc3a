// Chooses the kernel and its grid, and launches it on the caller's stream.

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>

#include "../state_lock.h"
#include "launch.h"
#include "memory.cuh"
// (memory.cuh first: the kernels use its names)
#include "instances.h"
#include "kernel.cuh"

namespace blockenc {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" +
                             cudaGetErrorName(status) + ")");
  }
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "no current device");
    if (before_ != device) check(cudaSetDevice(device), "the images' device cannot be used");
  }
  ~DeviceGuard() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

// As many blocks as the device holds at once: each works on until the batch is done. Asked once for each
// kernel, device and use of shared memory, since asking takes longer than a launch.
template <class Kernel>
int64_t resident_blocks(Kernel kernel, int device, int shared_bytes) {
  static std::map<std::tuple<const void*, int, int>, int64_t> known;
  const std::lock_guard<std::mutex> lock(state_lock());
  int64_t& resident = known[{reinterpret_cast<const void*>(kernel), device, shared_bytes}];
  if (!resident) {
    int processors = 0, blocks = 0;
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device properties");
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes),
          "no kernel for this device in this build");
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, shared_bytes),
          "device properties");
    resident = int64_t{processors} * std::max(blocks, 1);
  }
  return resident;
}

struct LaunchTiles {
  const Job& job;
  const Tiling& tiling;
  int device;
  cudaStream_t stream;

  template <class In, class Out, bool kFloat>
  void run() const {
    const auto kernel = tiles<In, Out, kFloat>;
    const int64_t grid = std::min(tiling.tiles, resident_blocks(kernel, device, tiling.shared_bytes));
    kernel<<<static_cast<unsigned>(grid), kThreads, tiling.shared_bytes, stream>>>(job, tiling);
  }
};

}  // namespace

std::string cuda_missing() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return devices ? "" : "no CUDA device";
}

void launch(const Job& job, int device, uintptr_t stream_handle) {
  const int64_t elements_out = job.n * job.plan.channels * job.h * job.w;
  if (elements_out <= 0) return;
  const DeviceGuard guard(device);
  const auto stream = reinterpret_cast<cudaStream_t>(stream_handle);
  cudaGetLastError();  // an earlier caller's error is not this launch's
  Tiling tiling;
  if (make_tiling(job, &tiling)) {
    with_instance(job, LaunchTiles{job, tiling, device, stream});
  } else {
    const int64_t blocks = (elements_out + kThreads - 1) / kThreads;
    const int64_t grid = std::min(blocks, resident_blocks(elements, device, 0));
    elements<<<static_cast<unsigned>(grid), kThreads, 0, stream>>>(job);
  }
  check(cudaGetLastError(), "the kernel was not launched");
}

}  // namespace blockenc
