// A plan and a job: what every kernel, on every device, is given.
//
// A plan comes from Python packed into one array of bytes: six sections, each padded to a multiple of
// kSection bytes (blockenc/plan/, Plan.packed, writes the same layout). This header is plain C++17, compiled
// by g++ and nvcc alike; nothing here allocates memory.

#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define BLOCKENC_HOST_DEVICE __host__ __device__
#define BLOCKENC_INLINE __host__ __device__ __forceinline__
#else
#define BLOCKENC_HOST_DEVICE
#define BLOCKENC_INLINE inline __attribute__((always_inline))
#endif

namespace blockenc {

enum class Type : int32_t { u8, u16, f32, f16, bf16 };

BLOCKENC_HOST_DEVICE constexpr int item_size(Type type) {
  return type == Type::u8 ? 1 : type == Type::f32 ? 4 : 2;
}
BLOCKENC_HOST_DEVICE constexpr bool is_integer(Type type) { return type == Type::u8 || type == Type::u16; }

// The bits of Plan::flags; blockenc/plan/ has the same list.
enum : int32_t {
  kQuantises = 1,    // float input becomes integers
  kNearest = 2,      // floats k / 255 are the bytes k; without it they are treated as published
  kDecimalIn = 4,    // integers in are below 1000, not 256
  kDecimalOut = 8,   // integers out are below 1000, not 256
  kNormalises = 16,  // float output is (v - mean) / std
  kAllFlags = 31,
};

constexpr int kByteValues = 256;
constexpr int kDecimalValues = 1000;
constexpr int64_t kSection = 64;
constexpr int kMaxTables = 255;               // table_of is a byte
constexpr int64_t kMaxBlockLength = 1 << 20;  // blockenc/scheme.py, MAX_BLOCK_LENGTH

// A plan transforms every block alike. A block vector has M * M * C values: position (i * M + j) * C + c is
// row i, column j, channel c of the block. The value at position p of an output block is made in three stages
// from the input value v = in[source[p]], where p has the channel c:
//
// 1. Flips, and floats to integers where kQuantises is set.
//      integers              k = min(v, in_values - 1), then 255 - k if flips[p] is odd
//      floats, kQuantises
//        with kNearest       k = the nearest integer to clamp(v, 0, 1) * in_scale, then flipped as integers
//        are without             v = 1 - v, flips[p] times; k = trunc(clamp(v, 0, 1) * in_scale)
//      floats that stay      v = negative(v), flips[p] times. With kNearest the negative of a byte k / 255 is
//                            (255 - k) / 255, and of any other float 1 - v; without, it is always 1 - v.
//      Every result that is still a float is rounded to the input type; clamp(NaN, 0, 1) is 0.
// 2. Substitution, of integers: table number table_of[p] counts from 1, and 0 is none.
//      k = table_of[p] ? tables[(table_of[p] - 1) * in_values + k] : min(k, out_values - 1)
// 3. Output, rounded to the output type.
//      integers              k for an integer output, output[c * out_values + k] for a float output
//      floats that stayed    (v - mean[c]) / std[c] with kNormalises, v without
struct Plan {
  int32_t block_size;
  int32_t channels;
  int32_t length;  // block_size * block_size * channels
  int32_t table_count;
  int32_t flags;
  int32_t in_values;
  int32_t out_values;
  // Pointers, also to the one value of in_scale, since the arrays of a plan may be in device memory.
  const float* in_scale;    // [1]
  const float* mean;        // [channels]
  const float* std;         // [channels]
  const int32_t* source;    // [length]
  const uint8_t* flips;     // [length]
  const uint8_t* table_of;  // [length]
  const uint16_t* tables;   // [table_count][in_values]
  const float* output;      // [channels][out_values]
};

// Makes the pointers of `plan` point into the packed plan at `base`; returns how many bytes that has to have.
inline int64_t unpack_plan(const void* base, int block_size, int channels, int table_count, int flags,
                           Plan* plan) {
  const char* start = static_cast<const char*>(base);
  int64_t offset = 0;
  auto section = [&](int64_t bytes) {
    const char* here = start + offset;
    offset += (bytes + kSection - 1) / kSection * kSection;
    return here;
  };
  const int64_t length = int64_t{block_size} * block_size * channels;
  plan->block_size = block_size;
  plan->channels = channels;
  plan->length = static_cast<int32_t>(length);
  plan->table_count = table_count;
  plan->flags = flags;
  plan->in_values = flags & kDecimalIn ? kDecimalValues : kByteValues;
  plan->out_values = flags & kDecimalOut ? kDecimalValues : kByteValues;
  plan->in_scale = reinterpret_cast<const float*>(section(4 * (1 + 2 * int64_t{channels})));
  plan->mean = plan->in_scale + 1;
  plan->std = plan->mean + channels;
  plan->source = reinterpret_cast<const int32_t*>(section(4 * length));
  plan->flips = reinterpret_cast<const uint8_t*>(section(length));
  plan->table_of = reinterpret_cast<const uint8_t*>(section(length));
  plan->tables = reinterpret_cast<const uint16_t*>(section(2 * int64_t{table_count} * plan->in_values));
  plan->output = reinterpret_cast<const float*>(section(4 * int64_t{channels} * plan->out_values));
  return offset;
}

// A plan and the batch it is for. Strides are in elements, in the order N, C, H, W. Those of the input may be
// anything, also zero or negative; no two elements of the output may overlap, nor may one overlap the input.
struct Job {
  Plan plan;
  const void* in;
  void* out;
  Type in_type;
  Type out_type;
  int64_t n, h, w;
  int64_t in_stride[4];
  int64_t out_stride[4];
};

}  // namespace blockenc
