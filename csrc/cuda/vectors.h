// What the kernels that move images by vectors have in common, for the host to lay out. Plain C++.
//
// The pixels of the images may be *planar* (NCHW) or have their channels *interleaved* (channels_last). A
// *pixel row* is a row of pixels, of a whole image or of a block, whose values follow each other in memory:
// there is one for each channel and image row if the images are planar, and one for each image row if their
// channels are interleaved.

#pragma once

#include <cstdint>

#include "../plan.h"

namespace blockenc {

constexpr int kVector = 16;    // bytes of the widest access to global memory
constexpr int kThreads = 256;  // of a thread block
constexpr int kInFlight = 4;   // vectors a thread holds in registers while they are loaded
constexpr int kMaxSharedBytes = 64 * 1024;

// By how many bytes, a power of two up to kVector, all pixel rows of a batch are aligned; 0 if the values of
// a pixel row do not follow each other.
inline int row_alignment(const void* data, const int64_t* stride, Type type, int channels,
                         bool channels_last) {
  if (channels_last ? stride[1] != 1 || stride[3] != channels : stride[3] != 1) return 0;
  int64_t elements = stride[0] | stride[2];
  if (!channels_last) elements |= stride[1];
  const uint64_t bits =
      reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(elements) * item_size(type) | kVector;
  return static_cast<int>(bits & (~bits + 1));
}

// A batch is cut into parts of 2^log_size things, tiles of strips or chunks of blocks: how many part `number`
// has. The last one may have fewer than the others, and beyond it there are none.
BLOCKENC_INLINE int part_size(int64_t things, int log_size, int64_t number) {
  const int64_t left = things - (number << log_size);
  return left <= 0 ? 0 : left < 1 << log_size ? static_cast<int>(left) : 1 << log_size;
}

// Bytes of shared memory, given out section by section.
struct SharedMemory {
  int64_t end = 0;

  int64_t section(int64_t bytes) {
    const int64_t here = end;
    end += (bytes + kVector - 1) / kVector * kVector;
    return here;
  }
};

}  // namespace blockenc
