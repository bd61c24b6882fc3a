// The kernel `blocks`, for plans whose blocks move, differ, or are made of nibbles (chunking.h): it loads the
// blocks that a chunk of the output is made of by vectors, changes them in shared memory, and writes them by
// vectors.

#pragma once

#include "chunking.h"
#include "values.cuh"

namespace blockenc {

// How many blocks a chunk has: the last one may have fewer than the others, and beyond it there are none.
__device__ __forceinline__ int chunk_blocks(const Chunking& c, int64_t chunk) {
  const int64_t left = c.blocks - (chunk << c.log_blocks);
  return left <= 0 ? 0 : left < 1 << c.log_blocks ? static_cast<int>(left) : 1 << c.log_blocks;
}

// Where each pixel row of a block begins, in bytes from the beginning of the block, in global and in shared
// memory: {in, out}.
__device__ __forceinline__ void make_rows(const Job& job, const Chunking& c) {
  const int m = job.plan.block_size;
#pragma unroll 1
  for (int s = threadIdx.x; s < c.pixel_rows; s += kThreads) {
    const int plane = s / m, row = s % m;
    store_shared<longlong2>(
        c.row_bases + 16 * s,
        {(plane * job.in_stride[1] + row * job.in_stride[2]) * item_size(job.in_type),
         (plane * job.out_stride[1] + row * job.out_stride[2]) * item_size(job.out_type)});
    store_shared<uint2>(c.row_places + 8 * s,
                        {static_cast<uint32_t>(plane * c.in.plane_pitch + row * c.in.row),
                         static_cast<uint32_t>(plane * c.out.plane_pitch + row * c.out.row)});
  }
}

// Where each block of a chunk begins in global memory, in bytes: {in, out}; and its variant. Into one of two
// slots: that of the chunk in work, and that of the next.
__device__ __forceinline__ void make_places(const Job& job, const Chunking& c, int64_t chunk, int slot) {
  const int count = chunk_blocks(c, chunk), b = threadIdx.x;
  if (b >= count) return;
  const int m = job.plan.block_size;
  const int64_t index = (chunk << c.log_blocks) + b, image = divide(index, c.blocks_per_image);
  const int64_t block = index - image * c.blocks_per_image, row = divide(block, c.blocks_per_row);
  const int64_t y = row * m, x = (block - row * c.blocks_per_row) * m;
  const Origin origin = origin_of(job, image, y, x);
  const int64_t* const in = job.in_stride;
  const int64_t* const out = job.out_stride;
  const int at = (slot << c.log_blocks) + b;
  store_shared<longlong2>(c.places + 16 * at,
                          {(image * in[0] + origin.y * in[2] + origin.x * in[3]) * item_size(job.in_type),
                           (image * out[0] + y * out[2] + x * out[3]) * item_size(job.out_type)});
  store_shared<int32_t>(c.variants + 4 * at, static_cast<int32_t>(origin.variant));
}

__device__ __forceinline__ longlong2 place_of_block(const Chunking& c, int slot, int b) {
  return load_shared<longlong2>(c.places + 16 * ((slot << c.log_blocks) + b));
}

// What a thread moves at once: a vector of a pixel row of a block. Lanes take the same row of consecutive
// blocks, which follow each other in memory unless the blocks move.
struct BlockVector {
  int row, block;
  int byte;  // from the beginning of the row
};

__device__ __forceinline__ BlockVector block_vector(const Chunking& c, const ChunkSide& side, int i) {
  const int at = side.vectors.divide(i);
  return {at >> c.log_blocks, at & ((1 << c.log_blocks) - 1), (i - at * side.vectors.number) * side.vector};
}

// Blocks beyond the last are copies of that one, which are not written out.
template <class Vector>
__device__ __forceinline__ void load_chunk(const Job& job, const Chunking& c, int count, int slot) {
  const int items = c.pixel_rows * c.in.vectors.number << c.log_blocks;
#pragma unroll 1
  for (int begin = threadIdx.x; begin < items; begin += kInFlight * kThreads) {
    Vector vectors[kInFlight];
    int shared[kInFlight];
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      const int i = begin + n * kThreads;
      const BlockVector v = block_vector(c, c.in, i < items ? i : begin);
      const int block = v.block < count ? v.block : count - 1;
      const int64_t byte =
          place_of_block(c, slot, block).x + load_shared<longlong2>(c.row_bases + 16 * v.row).x + v.byte;
      vectors[n] = load_global<Vector>(static_cast<const char*>(job.in) + byte);
      shared[n] = c.in.begin + v.block * c.in.block_pitch +
                  static_cast<int>(load_shared<uint2>(c.row_places + 8 * v.row).x) + v.byte;
    }
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      if (begin + n * kThreads < items) store_shared<Vector>(shared[n], vectors[n]);
    }
  }
}

template <class Vector>
__device__ __forceinline__ void store_chunk(const Job& job, const Chunking& c, int count, int slot) {
  const int items = c.pixel_rows * c.out.vectors.number << c.log_blocks;
#pragma unroll 2
  for (int i = threadIdx.x; i < items; i += kThreads) {
    const BlockVector v = block_vector(c, c.out, i);
    if (v.block >= count) continue;
    const int shared = c.out.begin + v.block * c.out.block_pitch +
                       static_cast<int>(load_shared<uint2>(c.row_places + 8 * v.row).y) + v.byte;
    const int64_t byte =
        place_of_block(c, slot, v.block).y + load_shared<longlong2>(c.row_bases + 16 * v.row).y + v.byte;
    store_global<Vector>(static_cast<char*>(job.out) + byte, load_shared<Vector>(shared));
  }
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

// The byte of a block in shared memory where it has the value at a position.
__device__ __forceinline__ int byte_of_position(const Chunking& c, int plane_pitch, Type type, int p) {
  const int pixel = c.planes.divide(p), plane = p - pixel * c.planes.number;
  return plane * plane_pitch + pixel * item_size(type);
}

// What the plan says of the values of a quad, or of the halves of one: where they come from and how they are
// flipped. A source is twice a byte of the block in shared memory, and 1 more for the high half of that.
struct QuadSource {
  int source[kQuad] = {};
  uint32_t flips = 0;  // a byte for each

  __device__ __forceinline__ void load(const Job& job, const Chunking& c, int64_t cell) {
    const Plan& plan = job.plan;
    const uint4 sources = load_global<uint4>(plan.source + cell);
    flips = load_global<uint32_t>(plan.flips + cell);
    const uint32_t given[kQuad] = {sources.x, sources.y, sources.z, sources.w};
#pragma unroll
    for (int n = 0; n < kQuad; ++n) {
      const int from = given[n] < static_cast<uint32_t>(plan.cells) ? static_cast<int>(given[n]) : 0;
      const bool high = from >= plan.length;
      source[n] =
          2 * byte_of_position(c, c.in.plane_pitch, job.in_type, high ? from - plan.length : from) + high;
    }
  }
  __device__ __forceinline__ int byte(int n) const { return source[n] >> 1; }
  __device__ __forceinline__ int flips_of(int n) const { return static_cast<int>(flips >> 8 * n & 255); }
  // From the integer at that byte, the half that is wanted.
  __device__ __forceinline__ int half(int n, int k) const {
    return ((k >> 4 * (source[n] & 1)) & 15) ^ (flips_of(n) & 1 ? 15 : 0);
  }
};

template <bool kBytes>
__device__ __forceinline__ uint32_t load_shared_bits(int byte, Type type) {
  if (kBytes || item_size(type) == 1) return load_shared<uint8_t>(byte);
  return item_size(type) == 2 ? load_shared<uint16_t>(byte) : load_shared<uint32_t>(byte);
}

template <bool kBytes>
__device__ __forceinline__ void store_shared_bits(int byte, Type type, uint32_t bits) {
  if (kBytes || item_size(type) == 1) {
    store_shared<uint8_t>(byte, static_cast<uint8_t>(bits));
  } else if (item_size(type) == 2) {
    store_shared<uint16_t>(byte, static_cast<uint16_t>(bits));
  } else {
    store_shared<uint32_t>(byte, bits);
  }
}

// Makes the values of a quad of a block, which begins at `in` and `out` in shared memory.
template <bool kBytes, bool kNibbles>
__device__ __forceinline__ void change_quad(const Job& job, int p, const int (&to)[kQuad],
                                            const QuadSource (&from)[1 + kNibbles], uint2 tables, int in,
                                            int out) {
#pragma unroll
  for (int n = 0; n < kQuad; ++n) {
    const int table = static_cast<int>((n < 2 ? tables.x : tables.y) >> 16 * (n % 2) & 0xffff);
    const int channel = kBytes ? 0 : (p + n) % job.plan.channels;
    uint32_t bits = load_shared_bits<kBytes>(in + from[0].byte(n), job.in_type);
    if constexpr (kNibbles) {
      const uint32_t high = load_shared_bits<kBytes>(in + from[1].byte(n), job.in_type);
      const int k = from[0].half(n, integer_of(job, bits)) | from[1].half(n, integer_of(job, high)) << 4;
      bits = kBytes ? substitute(job.plan, table, k, DeviceRead()) : integer_output(job, table, channel, k);
    } else if constexpr (kBytes) {
      bits = substitute(job.plan, table, flip_integer(bits, from[0].flips_of(n) & 1), DeviceRead());
    } else {
      bits = element_output(job, from[0].flips_of(n), table, channel, bits);
    }
    store_shared_bits<kBytes>(out + to[n], job.out_type, bits);
  }
}

// Makes the output blocks of a chunk from the input's, both in shared memory: each thread a quad of one block
// after the other, so that blocks of the same variant share what it loads from the plan.
template <bool kBytes, bool kNibbles>
__device__ __forceinline__ void change_chunk(const Job& job, const Chunking& c, int count, int slot) {
  const Plan& plan = job.plan;
  const int thread = threadIdx.x, first = c.quads < kThreads ? thread / c.quads : 0;
  if (first >= c.abreast) return;
#pragma unroll 1
  for (int quad = thread - first * c.quads; quad < c.quads; quad += kThreads) {
    const int p = kQuad * quad;
    int to[kQuad], variant = -1;
#pragma unroll
    for (int n = 0; n < kQuad; ++n) to[n] = byte_of_position(c, c.out.plane_pitch, job.out_type, p + n);
    QuadSource from[1 + kNibbles];
    uint2 tables{};
#pragma unroll 1
    for (int b = first; b < count; b += c.abreast) {
      const int v = load_shared<int32_t>(c.variants + 4 * ((slot << c.log_blocks) + b));
      if (v != variant) {
        variant = v;
        const int64_t cell = int64_t{v} * plan.cells + p;
        from[0].load(job, c, cell);
        if constexpr (kNibbles) from[1].load(job, c, cell + plan.length);
        if (plan.table_count) tables = load_global<uint2>(plan.table_of + int64_t{v} * plan.length + p);
      }
      change_quad<kBytes, kNibbles>(job, p, to, from, tables, c.in.begin + b * c.in.block_pitch,
                                    c.out.begin + b * c.out.block_pitch);
    }
  }
}

// kBytes: bytes become bytes. kNibbles: the plan has kNibbles.
template <bool kBytes, bool kNibbles>
__global__ void __launch_bounds__(kThreads, 4) blocks(const Job job, const Chunking c) {
  make_rows(job, c);
  make_places(job, c, blockIdx.x, 0);
  __syncthreads();
  int slot = 0;
  for (int64_t chunk = blockIdx.x; chunk < c.chunks; chunk += gridDim.x, slot ^= 1) {
    const int count = chunk_blocks(c, chunk);
    with_vector(c.in.vector, [&](auto vector) { load_chunk<decltype(vector)>(job, c, count, slot); });
    __syncthreads();
    make_places(job, c, chunk + gridDim.x, slot ^ 1);
    change_chunk<kBytes, kNibbles>(job, c, count, slot);
    __syncthreads();
    with_vector(c.out.vector, [&](auto vector) { store_chunk<decltype(vector)>(job, c, count, slot); });
  }
}

}  // namespace blockenc
