// Enough of CUDA for g++ to run the kernels of csrc/cuda, one block at a time, one fiber a thread.
//
// A fiber runs until a barrier; when all threads of the block have come to one, the next phase begins.
// Faults throw Fault: accesses outside the memory a launch was given, unaligned ones, reads of shared
// memory nobody wrote, barriers that not all threads reach or that are different ones, two threads touching
// a byte of shared memory between two barriers, one of them writing, and touching one to which an
// asynchronous copy is under way. Such copies write when they are waited for, as late as they may.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define __CUDA_ARCH__ 900  // what is written for devices only is emulated as well
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() emulation::barrier(__LINE__)

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) longlong2 {
  long long x, y;
};
struct Index {
  unsigned x, y, z;
};

inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Region {
  uintptr_t first, last;  // one past the end
  bool writable;
};

struct Byte {  // of shared memory, and who touched it in the current phase
  uint8_t value = 0;
  bool written = false;
  int write_phase = -1, writer = -1;
  int read_phase = -1, reader = -1;  // kMany: several threads
  bool under_way = false;            // an asynchronous copy to it has not been waited for
};
constexpr int kMany = -2;
constexpr size_t kStack = 64 * 1024;

struct Copy {  // of 16 bytes, asynchronous
  int offset, group;
  const void* address;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  bool done = false;
  int barrier = 0;
  int groups = 0;  // of copies, that are committed
  std::vector<Copy> copies;
};

inline std::vector<Region> regions;
inline std::vector<Byte> shared;
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline int current, phase;
inline std::function<void()> kernel;
inline std::exception_ptr failure;

template <class T>
void check_global(const void* address, bool writes) {
  const auto first = reinterpret_cast<uintptr_t>(address);
  if (first % sizeof(T)) throw Fault("misaligned access to global memory");
  for (const Region& region : regions) {
    if (first >= region.first && first + sizeof(T) <= region.last && (region.writable || !writes)) return;
  }
  throw Fault(std::string("out of bounds in global memory: ") + (writes ? "write" : "read"));
}

template <class T>
T load_global(const void* address) {
  check_global<T>(address, false);
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

template <class T>
void store_global(void* address, T value) {
  check_global<T>(address, true);
  std::memcpy(address, &value, sizeof value);
}

template <class T>
Byte* check_shared(int offset) {
  if (offset < 0 || static_cast<size_t>(offset) + sizeof(T) > shared.size())
    throw Fault("out of bounds in shared memory");
  if (offset % sizeof(T)) throw Fault("misaligned access to shared memory");
  return &shared[offset];
}

template <class T>
T load_shared(int offset) {
  Byte* bytes = check_shared<T>(offset);
  uint8_t raw[sizeof(T)];
  for (size_t n = 0; n < sizeof(T); ++n) {
    Byte& byte = bytes[n];
    if (byte.under_way) throw Fault("copy not waited for: read");
    if (!byte.written) throw Fault("read of uninitialised shared memory");
    if (byte.write_phase == phase && byte.writer != current) throw Fault("race in shared memory: read");
    byte.reader = byte.read_phase == phase && byte.reader != current ? kMany : current;
    byte.read_phase = phase;
    raw[n] = byte.value;
  }
  T value;
  std::memcpy(&value, raw, sizeof value);
  return value;
}

template <class T>
void store_shared(int offset, T value) {
  Byte* bytes = check_shared<T>(offset);
  uint8_t raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof value);
  for (size_t n = 0; n < sizeof(T); ++n) {
    Byte& byte = bytes[n];
    if (byte.under_way) throw Fault("copy not waited for: write");
    if ((byte.write_phase == phase && byte.writer != current) ||
        (byte.read_phase == phase && byte.reader != current))
      throw Fault("race in shared memory: write");
    byte.written = true;
    byte.write_phase = phase;
    byte.writer = current;
    byte.value = raw[n];
  }
}

inline void copy_async(int offset, const void* address) {
  check_global<uint4>(address, false);
  store_shared<uint4>(offset, {});  // from now on it may write: races with others count from here
  for (size_t n = 0; n < sizeof(uint4); ++n) shared[offset + n].under_way = true;
  fibers[current].copies.push_back({offset, fibers[current].groups, address});
}

inline void commit_copies() { ++fibers[current].groups; }

// Waits for all groups of this thread but the last `groups`.
inline void wait_copies(int groups) {
  Fiber& fiber = fibers[current];
  std::vector<Copy> left;
  for (const Copy& copy : fiber.copies) {
    if (copy.group >= fiber.groups - groups) {
      left.push_back(copy);
      continue;
    }
    for (size_t n = 0; n < sizeof(uint4); ++n) shared[copy.offset + n].under_way = false;
    store_shared<uint4>(copy.offset, load_global<uint4>(copy.address));
  }
  fiber.copies = std::move(left);
}

inline void barrier(int line) {
  fibers[current].barrier = line;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void enter() {
  try {
    kernel();
  } catch (...) {
    failure = std::current_exception();
  }
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void run_block(unsigned threads, size_t shared_bytes) {
  shared.assign(shared_bytes, Byte{});
  fibers.resize(threads);
  phase = 0;
  for (Fiber& fiber : fibers) {
    fiber.done = false;
    fiber.barrier = 0;
    fiber.groups = 0;
    fiber.copies.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (;; ++phase) {
    unsigned done = 0;
    for (unsigned n = 0; n < threads; ++n) {
      current = static_cast<int>(n);
      threadIdx = {n, 0, 0};
      if (!fibers[n].done) swapcontext(&scheduler, &fibers[n].context);
      if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
      done += fibers[n].done;
    }
    if (done == threads) return;
    if (done) throw Fault("divergent barrier: some threads have ended");
    for (const Fiber& fiber : fibers) {
      if (fiber.barrier != fibers[0].barrier) throw Fault("divergent barrier: not the same one");
    }
  }
}

// Runs a kernel over the grid, the blocks one after the other.
inline void launch(unsigned grid, unsigned threads, size_t shared_bytes, std::function<void()> body) {
  kernel = std::move(body);
  gridDim = {grid, 1, 1};
  blockDim = {threads, 1, 1};
  for (unsigned block = 0; block < grid; ++block) {
    blockIdx = {block, 0, 0};
    run_block(threads, shared_bytes);
  }
}

}  // namespace emulation
