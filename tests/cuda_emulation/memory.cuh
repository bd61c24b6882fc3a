// csrc/cuda/memory.cuh for the emulation: the same names, every access checked.

#pragma once

#include "emulation.h"

namespace blockenc {

template <class T>
T load_global(const void* address) {
  return emulation::load_global<T>(address);
}
template <class T>
void store_global(void* address, T value) {
  emulation::store_global(address, value);
}
template <class T>
T load_shared(int offset) {
  return emulation::load_shared<T>(offset);
}
template <class T>
void store_shared(int offset, T value) {
  emulation::store_shared(offset, value);
}

inline void copy_async(int offset, const void* address) { emulation::copy_async(offset, address); }
inline void commit_copies() { emulation::commit_copies(); }
template <int kGroups>
void wait_copies() {
  emulation::wait_copies(kGroups);
}

inline uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t choice) {
  const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<uint32_t>(bytes >> (choice >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}

}  // namespace blockenc
