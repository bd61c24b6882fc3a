// The kernel `elements`, for every job: one element at a time.

#pragma once

#include "values.cuh"

namespace blockenc {

// The bits of the value at a position of the input's block at `origin`.
__device__ __forceinline__ uint32_t load_position(const Job& job, int64_t image, const Origin& origin,
                                                  int p) {
  const int m = job.plan.block_size, c = job.plan.channels, pixel = p / c;
  const int64_t from = image * job.in_stride[0] + p % c * job.in_stride[1] +
                       (origin.y + pixel / m) * job.in_stride[2] + (origin.x + pixel % m) * job.in_stride[3];
  return load_bits(job.in, from, job.in_type);
}

// Half a byte: what cell q of a block of nibbles becomes.
__device__ __forceinline__ int nibble(const Job& job, int64_t image, const Origin& origin, int q) {
  const Plan& plan = job.plan;
  const int64_t at = origin.variant * plan.cells + q;
  const int source = index_below(plan.source + at, plan.cells), length = plan.length;
  const int k = integer_of(job, load_position(job, image, origin, source % length));
  return ((source < length ? k : k >> 4) & 15) ^ (load_global<uint8_t>(plan.flips + at) & 1 ? 15 : 0);
}

// The kernel for any plan, strides and types: each thread makes one output element at a time, and
// neighbouring threads make neighbouring elements of an image row.
__global__ void __launch_bounds__(kThreads, 4) elements(const Job job) {
  const Plan& plan = job.plan;
  const int m = plan.block_size, c = plan.channels;
  const int64_t total = job.n * c * job.h * job.w, threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += threads) {
    // Element i is at (image, channel, y, x), which is (row, column) of its block.
    const int64_t image_row = divide(i, job.w), x = i - image_row * job.w;
    const int64_t plane = divide(image_row, job.h), y = image_row - plane * job.h;
    const int64_t image = divide(plane, c);
    const int channel = static_cast<int>(plane - image * c);
    const int row = static_cast<int>(y - divide(y, m) * m), column = static_cast<int>(x - divide(x, m) * m);
    const int p = (row * m + column) * c + channel;
    const Origin origin = origin_of(job, image, y - row, x - column);
    const int64_t at = origin.variant * plan.length + p;
    const int table = load_global<uint16_t>(plan.table_of + at);
    uint32_t bits;
    if (plan.flags & kNibbles) {
      const int k = nibble(job, image, origin, p) | nibble(job, image, origin, plan.length + p) << 4;
      bits = integer_output(job, table, channel, k);
    } else {
      const int source = index_below(plan.source + at, plan.length);
      bits = element_output(job, load_global<uint8_t>(plan.flips + at), table, channel,
                            load_position(job, image, origin, source));
    }
    const int64_t to = image * job.out_stride[0] + channel * job.out_stride[1] + y * job.out_stride[2] +
                       x * job.out_stride[3];
    store_bits(job.out, to, job.out_type, bits);
  }
}

}  // namespace blockenc
