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
#include "blocks.cuh"
#include "elements.cuh"
#include "instances.h"
#include "tiles.cuh"

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
int64_t resident_blocks(Kernel kernel, int device, int threads, int shared_bytes, int most_shared) {
  static std::map<std::tuple<const void*, int, int>, int64_t> known;
  const std::lock_guard<std::mutex> lock(state_lock());
  int64_t& resident = known[{reinterpret_cast<const void*>(kernel), device, shared_bytes}];
  if (!resident) {
    int processors = 0, blocks = 0;
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device properties");
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared),
          "no kernel for this device in this build, or too little shared memory");
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes),
          "device properties");
    resident = int64_t{processors} * std::max(blocks, 1);
  }
  return resident;
}

struct Launch {
  const Job& job;
  int device;
  cudaStream_t stream;

  template <class In, class Out, bool kFloat, int kThreadCount, bool kPadded, int kAhead>
  void tiles(const Tiling& tiling) const {
    start(blockenc::tiles<In, Out, kFloat, kThreadCount, kPadded, kAhead>, tiling.tiles, kThreadCount,
          tiling.shared_bytes, kAhead ? kMaxAheadBytes : kMaxSharedBytes, tiling);
  }
  template <bool kBytes, bool kNibbles>
  void blocks(const Chunking& chunking) const {
    start(blockenc::blocks<kBytes, kNibbles>, chunking.chunks, kThreads, chunking.shared_bytes,
          kMaxSharedBytes, chunking);
  }
  template <bool kWide>
  void elements(const Indexing& indexing) const {
    const int64_t count = job.n * indexing.image_elements;
    start(blockenc::elements<kWide>, (count + kThreads - 1) / kThreads, kThreads, 0, kMaxSharedBytes,
          indexing);
  }

 private:
  // parts: how many thread blocks would each have something to do. most_shared: what shared_bytes may be.
  template <class... Layout>
  void start(void (*kernel)(Job, Layout...), int64_t parts, int threads, int shared_bytes, int most_shared,
             const Layout&... layout) const {
    const int64_t grid = std::min(parts, resident_blocks(kernel, device, threads, shared_bytes, most_shared));
    kernel<<<static_cast<unsigned>(grid), threads, shared_bytes, stream>>>(job, layout...);
  }
};

}  // namespace

std::string cuda_missing() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return devices ? "" : "no CUDA device";
}

void launch(const Job& job, int device, uintptr_t stream_handle, const Tuning& tuning) {
  if (job.n <= 0 || job.h <= 0 || job.w <= 0) return;
  const DeviceGuard guard(device);
  const auto stream = reinterpret_cast<cudaStream_t>(stream_handle);
  cudaGetLastError();  // an earlier caller's error is not this launch's
  with_kernel(job, tuning, Launch{job, device, stream});
  check(cudaGetLastError(), "the kernel was not launched");
}

}  // namespace blockenc
