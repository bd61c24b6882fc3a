// The kernel `blocks`, for plans whose blocks move, differ, or are made of nibbles (chunking.h): it loads the
// blocks that a chunk of the output is made of by vectors, changes them in shared memory, and writes them by
// vectors.

#pragma once

#include "chunking.h"
#include "values.cuh"

namespace blockenc {

__device__ __forceinline__ int chunk_blocks(const Chunking& c, int64_t chunk) {
  return part_size(c.blocks, c.log_blocks, chunk);
}

// Where each pixel row of a block begins, in bytes from the beginning of the block: {in global memory, in
// shared memory}.
__device__ __forceinline__ void make_rows(const Job& job, const Chunking& c, const ChunkSide& side,
                                          const int64_t* stride, Type type) {
  const int m = job.plan.block_size;
#pragma unroll 1
  for (int s = threadIdx.x; s < c.pixel_rows; s += kThreads) {
    const int plane = s / m, row = s % m;
    store_shared<longlong2>(side.rows + 16 * s, {(plane * stride[1] + row * stride[2]) * item_size(type),
                                                 plane * side.plane_pitch + row * side.row});
  }
}

// Where each block of a chunk begins in global memory, in bytes: {in, out}; and its variant. Into one of two
// slots: that of the chunk in work, and that of the next.
__device__ __forceinline__ void make_places(const Job& job, const Chunking& c, int64_t chunk, int slot) {
  const int b = threadIdx.x;
  if (b >= chunk_blocks(c, chunk)) return;
  const int m = job.plan.block_size;
  const int64_t index = (chunk << c.log_blocks) + b, image = divide(index, c.blocks_per_image);
  const int block = static_cast<int>(index - image * c.blocks_per_image),
            row = c.blocks_per_row.divide(block);
  const int column = block - row * static_cast<int>(c.blocks_per_row.number);
  const Origin origin = origin_of(job, c.blocks_per_row, image, row, column);
  const int64_t* const in = job.in_stride;
  const int64_t* const out = job.out_stride;
  const int at = (slot << c.log_blocks) + b;
  store_shared<longlong2>(
      c.places + 16 * at,
      {(image * in[0] + (origin.row * in[2] + origin.column * in[3]) * m) * item_size(job.in_type),
       (image * out[0] + (row * out[2] + column * out[3]) * m) * item_size(job.out_type)});
  store_shared<int32_t>(c.variants + 4 * at, static_cast<int32_t>(origin.variant));
}

__device__ __forceinline__ longlong2 place_of_block(const Chunking& c, int slot, int b) {
  return load_shared<longlong2>(c.places + 16 * ((slot << c.log_blocks) + b));
}

// Calls f(block, byte, row) for the columns that this thread has to move: a block of the chunk, the byte in
// its pixel rows where the column is, and the first of the rows; it has every side.abreast-th of them.
template <class F>
__device__ __forceinline__ void for_columns(const ChunkSide& side, int count, F f) {
  const int thread = threadIdx.x, columns = static_cast<int>(side.columns.number);
  const int row = side.columns.divide(thread);
  if (row >= side.abreast) return;
#pragma unroll 1
  for (int column = thread - row * columns; column < columns; column += kThreads) {
    const int block = side.vectors.divide(column);
    if (block >= count) return;
    f(block, (column - block * static_cast<int>(side.vectors.number)) * side.vector, row);
  }
}

template <class Vector>
__device__ __forceinline__ void load_chunk(const Job& job, const Chunking& c, int count, int slot) {
  const ChunkSide& side = c.in;
  for_columns(side, count, [&](int block, int byte, int first_row) {
    const char* const from = static_cast<const char*>(job.in) + place_of_block(c, slot, block).x + byte;
    const int to = side.blocks + block * side.block_pitch + byte;
#pragma unroll 1
    for (int begin = first_row; begin < c.pixel_rows; begin += kInFlight * side.abreast) {
      Vector vectors[kInFlight];
      int shared[kInFlight];
#pragma unroll
      for (int n = 0; n < kInFlight; ++n) {
        const int row = begin + n * side.abreast;
        const longlong2 place = load_shared<longlong2>(side.rows + 16 * (row < c.pixel_rows ? row : begin));
        vectors[n] = load_global<Vector>(from + place.x);
        shared[n] = row < c.pixel_rows ? to + static_cast<int>(place.y) : -1;
      }
#pragma unroll
      for (int n = 0; n < kInFlight; ++n) {
        if (shared[n] >= 0) store_shared<Vector>(shared[n], vectors[n]);
      }
    }
  });
}

template <class Vector>
__device__ __forceinline__ void store_chunk(const Job& job, const Chunking& c, int count, int slot) {
  const ChunkSide& side = c.out;
  for_columns(side, count, [&](int block, int byte, int first_row) {
    char* const to = static_cast<char*>(job.out) + place_of_block(c, slot, block).y + byte;
    const int from = side.blocks + block * side.block_pitch + byte;
#pragma unroll 2
    for (int row = first_row; row < c.pixel_rows; row += side.abreast) {
      const longlong2 place = load_shared<longlong2>(side.rows + 16 * row);
      store_global<Vector>(to + place.x, load_shared<Vector>(from + static_cast<int>(place.y)));
    }
  });
}

// Calls f(vector) with a vector of so many bytes.
template <class F>
__device__ __forceinline__ void with_vector(int bytes, F f) {
  switch (bytes) {
    case 16:
      return f(uint4{});
    case 8:
      return f(uint2{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint16_t{});
  }
}

template <bool kBytes>
__device__ __forceinline__ int item_size_of(Type type) {
  return kBytes ? 1 : item_size(type);
}

// The byte of a block in shared memory where it has the value at a position.
template <bool kBytes>
__device__ __forceinline__ int byte_of_position(const Chunking& c, const ChunkSide& side, Type type, int p) {
  const int pixel = c.planes.divide(p), plane = p - pixel * static_cast<int>(c.planes.number);
  return plane * side.plane_pitch + pixel * item_size_of<kBytes>(type);
}

template <bool kBytes>
__device__ __forceinline__ uint32_t load_shared_bits(int byte, Type type) {
  switch (item_size_of<kBytes>(type)) {
    case 1:
      return load_shared<uint8_t>(byte);
    case 2:
      return load_shared<uint16_t>(byte);
    default:
      return load_shared<uint32_t>(byte);
  }
}

template <bool kBytes>
__device__ __forceinline__ void store_shared_bits(int byte, Type type, uint32_t bits) {
  switch (item_size_of<kBytes>(type)) {
    case 1:
      return store_shared<uint8_t>(byte, static_cast<uint8_t>(bits));
    case 2:
      return store_shared<uint16_t>(byte, static_cast<uint16_t>(bits));
    default:
      return store_shared<uint32_t>(byte, bits);
  }
}

// Where the values of a quad come from, or the halves of them, and how they are flipped. The last three have
// a byte for each value.
template <bool kBytes>
struct QuadSource {
  int byte[kQuad] = {};  // of the block in shared memory
  uint32_t flips = 0;
  uint32_t masks = 0;   // of integers that are flipped: what turns k into 255 - k
  uint32_t shifts = 0;  // 4 for the high half of what is there

  // cell: the first of the four, of all variants.
  __device__ __forceinline__ void load(const Job& job, const Chunking& c, int64_t cell) {
    const Plan& plan = job.plan;
    const uint4 sources = load_global<uint4>(plan.source + cell);
    flips = load_global<uint32_t>(plan.flips + cell);
    masks = (flips & 0x01010101) * 255;
    shifts = 0;
    const uint32_t given[kQuad] = {sources.x, sources.y, sources.z, sources.w};
#pragma unroll
    for (int n = 0; n < kQuad; ++n) {
      int from = given[n] < static_cast<uint32_t>(plan.cells) ? static_cast<int>(given[n]) : 0;
      if (from >= plan.length) {
        from -= plan.length;
        shifts |= 4u << 8 * n;
      }
      byte[n] = byte_of_position<kBytes>(c, c.in, job.in_type, from);
    }
  }
  __device__ __forceinline__ int flips_of(int n) const { return static_cast<int>(flips >> 8 * n & 255); }
  __device__ __forceinline__ int flip_byte(int n, uint32_t k) const {
    return static_cast<int>(k ^ (masks >> 8 * n & 255));
  }
  // From the integer k at that byte, the half that is wanted.
  __device__ __forceinline__ int half(int n, uint32_t k) const {
    return static_cast<int>((k >> (shifts >> 8 * n & 255) ^ masks >> 8 * n) & 15);
  }
};

// The quad that a thread works on, which it keeps from block to block and from chunk to chunk.
// kBytes: bytes become bytes. kNibbles: the plan has kNibbles.
template <bool kBytes, bool kNibbles>
struct Quad {
  int number = -1, variant = -1;
  int to[kQuad];  // bytes of a block of the output in shared memory
  QuadSource<kBytes> from[1 + kNibbles];
  uint2 tables{};  // 16 bits for each

  __device__ __forceinline__ void choose(const Job& job, const Chunking& c, int chosen) {
    if (chosen == number) return;
    number = chosen;
    variant = -1;
#pragma unroll
    for (int n = 0; n < kQuad; ++n)
      to[n] = byte_of_position<kBytes>(c, c.out, job.out_type, kQuad * number + n);
  }

  // Loads what the plan says of it.
  __device__ __forceinline__ void load(const Job& job, const Chunking& c, int wanted) {
    if (wanted == variant) return;
    variant = wanted;
    const Plan& plan = job.plan;
    const int64_t cell = int64_t{variant} * plan.cells + kQuad * number;
    from[0].load(job, c, cell);
    if constexpr (kNibbles) from[1].load(job, c, cell + plan.length);
    if (plan.table_count)
      tables = load_global<uint2>(plan.table_of + int64_t{variant} * plan.length + kQuad * number);
  }

  __device__ __forceinline__ int table(int n) const {
    return static_cast<int>((n < 2 ? tables.x : tables.y) >> 16 * (n % 2) & 0xffff);
  }

  // Value n, made of the block that begins at `in` in shared memory; its bits.
  __device__ __forceinline__ uint32_t value(const Job& job, const Chunking& c, int n, int in) const {
    const int channel = kBytes ? 0 : c.channels.remainder(kQuad * number + n);
    const uint32_t bits = load_shared_bits<kBytes>(in + from[0].byte[n], job.in_type);
    if constexpr (kNibbles) {
      const uint32_t high = load_shared_bits<kBytes>(in + from[1].byte[n], job.in_type);
      const int k = from[0].half(n, integer<kBytes>(job, bits)) | from[1].half(n, integer<kBytes>(job, high))
                                                                      << 4;
      return kBytes ? byte_output(job, n, k) : integer_output(job, table(n), channel, k);
    } else if constexpr (kBytes) {
      return byte_output(job, n, from[0].flip_byte(n, bits));
    } else {
      return element_output(job, from[0].flips_of(n), table(n), channel, bits);
    }
  }

 private:
  template <bool kIsByte>
  __device__ __forceinline__ static int integer(const Job& job, uint32_t bits) {
    return kIsByte ? static_cast<int>(bits) : integer_of(job, bits);
  }
  __device__ __forceinline__ uint32_t byte_output(const Job& job, int n, int k) const {
    return job.plan.table_count ? substitute(job.plan, table(n), k, DeviceRead()) : k;
  }
};

// Makes the output blocks of a chunk from the input's, both in shared memory: each thread a quad of one block
// after the other.
template <bool kBytes, bool kNibbles>
__device__ __forceinline__ void change_chunk(const Job& job, const Chunking& c, int count, int slot,
                                             Quad<kBytes, kNibbles>& quad) {
  const int thread = threadIdx.x, quads = static_cast<int>(c.quads.number), first = c.quads.divide(thread);
  if (first >= c.abreast) return;
#pragma unroll 1
  for (int number = thread - first * quads; number < quads; number += kThreads) {
    quad.choose(job, c, number);
#pragma unroll 1
    for (int b = first; b < count; b += c.abreast) {
      quad.load(job, c, load_shared<int32_t>(c.variants + 4 * ((slot << c.log_blocks) + b)));
      const int in = c.in.blocks + b * c.in.block_pitch, out = c.out.blocks + b * c.out.block_pitch;
#pragma unroll
      for (int n = 0; n < kQuad; ++n)
        store_shared_bits<kBytes>(out + quad.to[n], job.out_type, quad.value(job, c, n, in));
    }
  }
}

template <bool kBytes, bool kNibbles>
__global__ void __launch_bounds__(kThreads, 4) blocks(const Job job, const Chunking c) {
  make_rows(job, c, c.in, job.in_stride, job.in_type);
  make_rows(job, c, c.out, job.out_stride, job.out_type);
  make_places(job, c, blockIdx.x, 0);
  __syncthreads();
  Quad<kBytes, kNibbles> quad;
  int slot = 0;
  for (int64_t chunk = blockIdx.x; chunk < c.chunks; chunk += gridDim.x, slot ^= 1) {
    const int count = chunk_blocks(c, chunk);
    with_vector(c.in.vector, [&](auto vector) { load_chunk<decltype(vector)>(job, c, count, slot); });
    __syncthreads();
    make_places(job, c, chunk + gridDim.x, slot ^ 1);
    change_chunk(job, c, count, slot, quad);
    __syncthreads();
    with_vector(c.out.vector, [&](auto vector) { store_chunk<decltype(vector)>(job, c, count, slot); });
  }
}

}  // namespace blockenc
