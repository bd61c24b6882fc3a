// The kernels of csrc/cuda under the emulation, for ctypes: tests/cuda_emulation/__init__.py.

#include "emulation.h"
// (the emulated names come before the kernels that use them)
#include "../../csrc/cuda/instances.h"
#include "../../csrc/job.h"
#include "memory.cuh"
// (the kernels use the names of memory.cuh)
#include "../../csrc/cuda/blocks.cuh"
#include "../../csrc/cuda/elements.cuh"
#include "../../csrc/cuda/tiles.cuh"

using namespace blockenc;

namespace {

char message[512];

template <class F>
int guarded(F f) {
  try {
    return f();
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), sizeof message - 1);
    emulation::failure = nullptr;
    return -1;
  }
}

enum Path { kElementsPath, kTilesPath, kBlocksPath };  // in the order of Emulated.PATHS

struct Emulate {
  const Job& job;
  int64_t most_blocks;  // of the grid
  Path* path;
  int64_t* tiles_made;  // by the kernel `tiles`
  int* ahead;           // of its instance

  template <class In, class Out, bool kFloat, int kThreadCount, bool kPadded, int kAhead>
  void tiles(const Tiling& t) const {
    *tiles_made = t.tiles;
    *ahead = kAhead;
    start(kTilesPath, t.tiles, kThreadCount, t.shared_bytes,
          [&] { blockenc::tiles<In, Out, kFloat, kThreadCount, kPadded, kAhead>(job, t); });
  }
  template <bool kBytes, bool kNibbles>
  void blocks(const Chunking& c) const {
    start(kBlocksPath, c.chunks, kThreads, c.shared_bytes,
          [&] { blockenc::blocks<kBytes, kNibbles>(job, c); });
  }
  template <bool kWide>
  void elements(const Indexing& indexing) const {
    const int64_t count = job.n * indexing.image_elements;
    start(kElementsPath, (count + kThreads - 1) / kThreads, kThreads, 0,
          [&] { blockenc::elements<kWide>(job, indexing); });
  }

 private:
  template <class F>
  void start(Path taken, int64_t parts, int threads, int shared_bytes, F kernel) const {
    *path = taken;
    emulation::launch(static_cast<unsigned>(std::min(parts, most_blocks)), threads, shared_bytes, kernel);
  }
};

// The bytes between the first and the last element, strides being at least 0.
emulation::Region extent(const void* data, const Job& job, const int64_t* stride, Type type, bool writable) {
  const int64_t sizes[] = {job.n, job.plan.channels, job.h, job.w};
  int64_t span = 1;
  for (int k = 0; k < 4; ++k) span += (sizes[k] - 1) * stride[k];
  const auto first = reinterpret_cast<uintptr_t>(data);
  return {first, first + span * item_size(type), writable};
}

using emulation::load_shared;
using emulation::store_shared;

// Kernels with one fault each, to see that the emulation finds it.
void planted(int fault, char* global) {
  const int thread = static_cast<int>(threadIdx.x);
  switch (fault) {
    case 0:
      store_global<uint4>(global + 8, {});
      break;
    case 1:
      load_global<uint32_t>(global + 64);
      break;
    case 2:
      store_shared<uint32_t>(4096, 0);
      break;
    case 3:
      store_shared<uint32_t>(2 + 4 * thread, 0);
      break;
    case 4:
      load_shared<uint32_t>(4 * thread);
      break;
    case 5:
      if (thread < 16) __syncthreads();
      break;
    case 6:
      if (thread < 16)
        __syncthreads();
      else
        __syncthreads();
      break;
    case 7:  // write, no barrier, read of the neighbour's
      store_shared<uint32_t>(4 * thread, 0);
      __syncthreads();
      store_shared<uint32_t>(4 * thread, 1);
      load_shared<uint32_t>(4 * ((thread + 31) % 32));
      break;
    case 8:  // two writers
      store_shared<uint32_t>(0, 1);
      break;
    case 9:  // read, no barrier, overwritten by another
      if (thread == 31) store_shared<uint32_t>(0, 1);
      __syncthreads();
      if (thread == 0) load_shared<uint32_t>(0);
      if (thread == 1) store_shared<uint32_t>(0, 2);
      break;
    case 10:  // a copy that is not waited for
    case 11:  // one in the last group, which the wait leaves out
    case 12:  // one that is in no group
      copy_async(16 * (thread % 16), global);
      if (fault < 12) commit_copies();
      if (fault > 10) wait_copies<1>();
      load_shared<uint32_t>(16 * (thread % 16));
      break;
    case 13:  // a copy to where one is under way
      copy_async(16 * (thread % 8), global);
      commit_copies();
      copy_async(16 * (thread % 8), global);
      break;
    case 14:  // one that another thread has waited for, and read without a barrier
      if (thread == 0) copy_async(0, global);
      commit_copies();
      wait_copies<0>();
      load_shared<uint32_t>(0);
      break;
    default:  // none
      store_shared<uint32_t>(4 * thread, 1);
      __syncthreads();
      load_shared<uint32_t>(4 * ((thread + 31) % 32));
      if (thread < 4) copy_async(128 + 16 * thread, global + 16 * thread);
      commit_copies();
      commit_copies();
      wait_copies<1>();
      __syncthreads();
      load_shared<uint32_t>(128 + 4 * (thread % 16));
      store_global<uint32_t>(global + thread % 16 * 4, 1);
  }
}

}  // namespace

extern "C" {

const char* emulated_message() { return message; }

// Returns which path the job took (Path), or -1 for an error.
// tuning: the numbers of a Tuning, or null. tiles_made, ahead: those of the kernel `tiles`, or 0.
int emulated_launch(uintptr_t in, uintptr_t out, int in_type, int out_type, const int64_t* shape,
                    const int64_t* in_stride, const int64_t* out_stride, uintptr_t plan, int64_t plan_bytes,
                    const char* header, int grid, const int* tuning, int64_t* tiles_made, int* ahead) {
  return guarded([&] {
    auto four = [](const int64_t* values) { return std::vector<int64_t>(values, values + 4); };
    const Job job = make_job(in, out, in_type, out_type, four(shape), four(in_stride), four(out_stride), plan,
                             plan_bytes, header);
    emulation::regions = {extent(job.in, job, job.in_stride, job.in_type, false),
                          extent(job.out, job, job.out_stride, job.out_type, true),
                          {plan, plan + plan_bytes, false}};
    Path path;
    Tuning chosen;
    if (tuning) chosen = {tuning[0], tuning[1], tuning[2], tuning[3] != 0, tuning[4]};
    *tiles_made = *ahead = 0;
    with_kernel(job, chosen, Emulate{job, grid, &path, tiles_made, ahead});
    return static_cast<int>(path);
  });
}

int emulated_fault(int fault) {
  return guarded([&] {
    alignas(16) static char global[64];
    const auto first = reinterpret_cast<uintptr_t>(global);
    emulation::regions = {{first, first + sizeof global, true}};
    emulation::launch(1, 32, 256, [&] { planted(fault, global); });
    return 0;
  });
}

// Byte offsets {in, out} of a strip of a batch whose memory is never touched.
int emulated_strip_base(const int64_t* shape, const int64_t* stride, int block_size, int64_t index,
                        int64_t* result) {
  return guarded([&] {
    alignas(16) static char nothing[16];
    Job job{};
    job.in = job.out = nothing;
    job.n = shape[0], job.h = shape[2], job.w = shape[3];
    std::memcpy(job.in_stride, stride, sizeof job.in_stride);
    std::memcpy(job.out_stride, stride, sizeof job.out_stride);
    Header header{};
    header.block_size = block_size;
    header.channels = static_cast<int>(shape[1]);
    header.variants = header.keys = 1;
    unpack_plan(header, nothing, &job.plan);
    Tiling t;
    if (!make_tiling(job, Tuning{}, &t)) throw std::invalid_argument("not for tiles");
    const longlong2 base = strip_base(job, t, index < 0 ? t.strips + index : index);
    result[0] = base.x, result[1] = base.y, result[2] = t.strip, result[3] = t.strips;
    return 0;
  });
}
}
