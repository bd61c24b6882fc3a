// Every access of the kernels to memory, and every intrinsic. tests/cuda_emulation has the same names, with
// checks.

#pragma once

#include <cstdint>

namespace blockenc {

// Also a host function, in name: functions that host and device share may call it.
template <class T>
__host__ __device__ __forceinline__ T load_global(const void* address) {
  return *static_cast<const T*>(address);
}

template <class T>
__device__ __forceinline__ void store_global(void* address, T value) {
  *static_cast<T*>(address) = value;
}

extern __shared__ uint4 shared_memory[];

template <class T>
__device__ __forceinline__ T load_shared(int offset) {
  return *reinterpret_cast<const T*>(reinterpret_cast<const char*>(shared_memory) + offset);
}

template <class T>
__device__ __forceinline__ void store_shared(int offset, T value) {
  *reinterpret_cast<T*>(reinterpret_cast<char*>(shared_memory) + offset) = value;
}

// Begins to copy 16 bytes from global to shared memory. This thread may use them once it has waited for the
// copy, others after a barrier besides.
__device__ __forceinline__ void copy_async(int offset, const void* address) {
#if __CUDA_ARCH__ >= 800
  const auto begin = static_cast<uint32_t>(__cvta_generic_to_shared(shared_memory));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(begin + offset), "l"(address) : "memory");
#else
  store_shared(offset, load_global<uint4>(address));
#endif
}

// The copies that this thread has begun since its last call become a group.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for the copies of this thread but those of its last kGroups groups.
template <int kGroups>
__device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// Four bytes chosen from those of a (0 to 3) and b (4 to 7), by the hexadecimal digits of `choice`.
__device__ __forceinline__ uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t choice) {
  return __byte_perm(a, b, choice);
}

}  // namespace blockenc
