// The kernel `elements`, for every job: one element at a time, whatever the plan, strides and types.

#pragma once

#include "indexing.h"
#include "values.cuh"

namespace blockenc {

// n / divisor.number; kWide: n may be 2^31 or more.
template <bool kWide>
__device__ __forceinline__ int64_t quotient(int64_t n, const Divisor& divisor) {
  return kWide ? n / divisor.number : divisor.divide(static_cast<int>(n));
}

// The block of the input that a block of the output is made of.
struct InputBlock {
  const Job& job;
  const Indexing& index;
  int64_t begin;  // its first value, in elements from the beginning of the input
  int64_t variant;

  // The bits of the value at a position.
  __device__ __forceinline__ uint32_t load(int p) const {
    const int c = job.plan.channels, m = job.plan.block_size;
    const int pixel = index.channels.divide(p), row = index.block_size.divide(pixel);
    return load_bits(job.in,
                     begin + (p - pixel * c) * job.in_stride[1] + row * job.in_stride[2] +
                         (pixel - row * m) * job.in_stride[3],
                     job.in_type);
  }
};

// Half a byte: what cell q of a block of nibbles becomes.
__device__ __forceinline__ int nibble(const InputBlock& block, int q) {
  const Job& job = block.job;
  const Plan& plan = job.plan;
  const int64_t at = block.variant * plan.cells + q;
  const int source = index_below(plan.source + at, plan.cells);
  const bool high = source >= plan.length;
  const int k = integer_of(job, block.load(high ? source - plan.length : source));
  return ((high ? k >> 4 : k) & 15) ^ (load_global<uint8_t>(plan.flips + at) & 1 ? 15 : 0);
}

// Makes one element of the output: number i of an image is at (channel, y, x), which is (row, column) of its
// block.
template <bool kWide>
__device__ __forceinline__ void make_element(const Job& job, const Indexing& index, int64_t image,
                                             int64_t i) {
  const Plan& plan = job.plan;
  const int m = plan.block_size, c = plan.channels;
  const int64_t image_row = quotient<kWide>(i, index.width), x = i - image_row * job.w;
  const int64_t channel_number = quotient<kWide>(image_row, index.height),
                y = image_row - channel_number * job.h;
  const int64_t block_row = quotient<kWide>(y, index.block_size),
                block_column = quotient<kWide>(x, index.block_size);
  const int channel = static_cast<int>(channel_number), row = static_cast<int>(y - block_row * m);
  const int column = static_cast<int>(x - block_column * m), p = (row * m + column) * c + channel;
  const Origin origin = origin_of(job, index.grid_columns, image, block_row, block_column);
  const int64_t begin =
      image * job.in_stride[0] + origin.row * m * job.in_stride[2] + origin.column * m * job.in_stride[3];
  const InputBlock block{job, index, begin, origin.variant};
  const int64_t at = origin.variant * plan.length + p;
  const int table = load_global<uint16_t>(plan.table_of + at);
  uint32_t bits;
  if (plan.flags & kNibbles) {
    const int k = nibble(block, p) | nibble(block, plan.length + p) << 4;
    bits = integer_output(job, table, channel, k);
  } else {
    const int source = index_below(plan.source + at, plan.length);
    bits = element_output(job, load_global<uint8_t>(plan.flips + at), table, channel, block.load(source));
  }
  const int64_t to =
      image * job.out_stride[0] + channel * job.out_stride[1] + y * job.out_stride[2] + x * job.out_stride[3];
  store_bits(job.out, to, job.out_type, bits);
}

// Neighbouring threads make neighbouring elements of an image row.
template <bool kWide>
__global__ void __launch_bounds__(kThreads, 4) elements(const Job job, const Indexing index) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads, of_image = index.image_elements;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t image_step = threads / of_image, step = threads - image_step * of_image;
  int64_t image = first / of_image, i = first - image * of_image;
  while (image < job.n) {
    make_element<kWide>(job, index, image, i);
    image += image_step;
    i += step;
    if (i >= of_image) {
      i -= of_image;
      ++image;
    }
  }
}

}  // namespace blockenc
