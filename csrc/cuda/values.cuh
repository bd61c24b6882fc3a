// What happens to one value between load and store on a CUDA device, and how a plan is read there.
//
// A plan is in device memory and is not trusted: every index from it is clamped before use. Before this file,
// memory.cuh or its emulation is to be included.

#pragma once

#include "../half.h"
#include "../plan.h"
#include "../values.h"
#include "divisor.h"

namespace blockenc {

// Values, as the comment on Plan (plan.h) defines them. values.h has what the host's kernels do alike.

BLOCKENC_INLINE float to_float(uint32_t bits, Type type) {
  if (type == Type::f32) return bits_float(bits);
  return type == Type::f16 ? f16_to_float(static_cast<uint16_t>(bits))
                           : bf16_to_float(static_cast<uint16_t>(bits));
}

BLOCKENC_INLINE uint32_t from_float(float value, Type type) {
  if (type == Type::f32) return float_bits(value);
  return type == Type::f16 ? float_to_f16(value) : float_to_bf16(value);
}

struct RoundToType {
  Type type;
  BLOCKENC_INLINE float operator()(float v) const { return to_float(from_float(v, type), type); }
};

// Reads a plan in device memory.
struct DeviceRead {
  template <class T>
  BLOCKENC_INLINE T operator()(const T* address) const {
    return load_global<T>(address);
  }
};

// Floats that become the nearest integers are flipped as integers, after that.
__device__ __forceinline__ float flip_float(float v, int flips, Type type, int32_t flags) {
  const RoundToType round{type};
  const bool nearest = flags & kNearest;
  if (nearest && flags & kQuantises) return v;
  for (; flips > 0; --flips) v = nearest ? negative(v, round) : published_negative(v, round);
  return v;
}

// Below in_values whatever in_scale is, since a plan is not trusted. Of NaN and a number, fmaxf is the
// number.
__device__ __forceinline__ int quantise(float v, float in_scale, const Plan& plan) {
  const float whole = quantise(v, in_scale, static_cast<bool>(plan.flags & kNearest));
  return static_cast<int>(fminf(fmaxf(whole, 0.0f), static_cast<float>(plan.in_values - 1)));
}

// Substitutes the integer k by a table (0: none), and gives the bits that are stored for it.
__device__ __forceinline__ uint32_t integer_output(const Job& job, int table, int channel, int k) {
  k = substitute(job.plan, table, k, DeviceRead());
  if (is_integer(job.out_type)) return static_cast<uint32_t>(k);
  return from_float(float_output(job.plan, channel, k, DeviceRead()), job.out_type);
}

__device__ __forceinline__ float normalise(const Plan& plan, int channel, float v) {
  if (!(plan.flags & kNormalises)) return v;
  return (v - load_global<float>(plan.mean + channel)) / load_global<float>(plan.std + channel);
}

// A number of the plan that is to index an array of `end` elements; 0 where it does not.
__device__ __forceinline__ int index_below(const int32_t* address, int64_t end) {
  const int index = load_global<int32_t>(address);
  return static_cast<uint32_t>(index) < static_cast<uint64_t>(end) ? index : 0;
}

// a / b, by 32-bit division where that does: the 64-bit one is a long subroutine.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  if ((static_cast<uint64_t>(a) | static_cast<uint64_t>(b)) >> 32 == 0)
    return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

__device__ __forceinline__ uint32_t load_bits(const void* data, int64_t index, Type type) {
  const char* address = static_cast<const char*>(data) + index * item_size(type);
  switch (item_size(type)) {
    case 1:
      return load_global<uint8_t>(address);
    case 2:
      return load_global<uint16_t>(address);
    default:
      return load_global<uint32_t>(address);
  }
}

__device__ __forceinline__ void store_bits(void* data, int64_t index, Type type, uint32_t bits) {
  char* address = static_cast<char*>(data) + index * item_size(type);
  switch (item_size(type)) {
    case 1:
      return store_global<uint8_t>(address, static_cast<uint8_t>(bits));
    case 2:
      return store_global<uint16_t>(address, static_cast<uint16_t>(bits));
    default:
      return store_global<uint32_t>(address, bits);
  }
}

// The integer that the value with these bits is, or becomes.
__device__ __forceinline__ int integer_of(const Job& job, uint32_t bits) {
  const Plan& plan = job.plan;
  if (!is_integer(job.in_type)) {
    return quantise(to_float(bits, job.in_type), load_global<float>(plan.in_scale), plan);
  }
  return static_cast<int>(bits) < plan.in_values ? static_cast<int>(bits) : plan.in_values - 1;
}

// The bits to store for a value, given the bits loaded from its source, and its flips, table and channel.
__device__ __forceinline__ uint32_t element_output(const Job& job, int flips, int table, int channel,
                                                   uint32_t bits) {
  const Plan& plan = job.plan;
  int k;
  if (is_integer(job.in_type)) {
    k = flip_integer(integer_of(job, bits), flips & 1);
  } else {
    const float value = flip_float(to_float(bits, job.in_type), flips, job.in_type, plan.flags);
    if (!(plan.flags & kQuantises)) return from_float(normalise(plan, channel, value), job.out_type);
    k = quantise(value, load_global<float>(plan.in_scale), plan);
    if (plan.flags & kNearest) k = flip_integer(k, flips & 1);
  }
  return integer_output(job, table, channel, k);
}

// The block of the input that an output block is made of: where it is among the blocks of its image, and the
// variant of its transform.
struct Origin {
  int64_t row, column, variant;
};

// columns: of blocks of an image.
__device__ __forceinline__ Origin origin_of(const Job& job, const Divisor& columns, int64_t image,
                                            int64_t row, int64_t column) {
  const Plan& plan = job.plan;
  const int64_t key = plan.images ? index_below(plan.key_of_image + image, plan.keys) : 0;
  if (!plan.grid_rows) return {row, column, key};
  const int64_t at = key * plan.blocks() + row * plan.grid_columns + column;
  const int from = index_below(plan.moves + at, plan.blocks()), from_row = columns.divide(from);
  return {from_row, from - from_row * plan.grid_columns, index_below(plan.variant + at, plan.variants)};
}

}  // namespace blockenc
