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

}  // namespace blockenc
