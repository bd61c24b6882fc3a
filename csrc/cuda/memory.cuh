// Every access of the kernels to memory. tests/cuda_emulation has the same names, with checks.

#pragma once

#include <cstdint>

namespace blockenc {

template <class T>
__device__ __forceinline__ T load_global(const void* address) {
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

}  // namespace blockenc
