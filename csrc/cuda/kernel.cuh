// The kernels: `tiles` through shared memory with 16-byte vectors, `elements` for whatever has no vectors.
//
// A plan is in device memory and is not trusted: what indexes with it clamps it first. The including file
// brings memory.cuh, or the emulation of it.

#pragma once

#include "../half.h"
#include "../plan.h"
#include "tiling.h"

namespace blockenc {

// Values, as the comment on Plan (plan.h) defines them.

__device__ __forceinline__ float to_float(uint32_t bits, Type type) {
  if (type == Type::f32) return bits_float(bits);
  return type == Type::f16 ? f16_to_float(static_cast<uint16_t>(bits))
                           : bf16_to_float(static_cast<uint16_t>(bits));
}

__device__ __forceinline__ uint32_t from_float(float value, Type type) {
  if (type == Type::f32) return float_bits(value);
  return type == Type::f16 ? float_to_f16(value) : float_to_bf16(value);
}

__device__ __forceinline__ int flipped(int k, bool odd) {
  return odd ? (k < kByteValues ? kByteValues - 1 - k : 0) : k;
}

__device__ __forceinline__ float flipped(float v, int flips, Type type) {
  for (; flips > 0; --flips) v = to_float(from_float(1.0f - v, type), type);
  return v;
}

// in_scale and in_values bound the result, whatever the plan holds.
__device__ __forceinline__ int quantised(float v, float in_scale, const Plan& plan) {
  const float clamped = v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f;  // NaN compares false: 0
  const float scaled = clamped * in_scale;
  const float rounded = plan.flags & kNearest ? rintf(scaled) : scaled;
  if (!(rounded > 0.0f)) return 0;
  return rounded < static_cast<float>(plan.in_values) ? static_cast<int>(rounded) : plan.in_values - 1;
}

// The bits stored for the integer k after substitution by a table (0: none).
__device__ __forceinline__ uint32_t finished(const Job& job, int table, int channel, int k) {
  const Plan& plan = job.plan;
  if (table > 0 && table <= plan.table_count) {
    k = load_global<uint16_t>(plan.tables + (table - 1) * plan.in_values + k);
  }
  if (k >= plan.out_values) k = plan.out_values - 1;
  if (is_integer(job.out_type)) return static_cast<uint32_t>(k);
  return from_float(load_global<float>(plan.output + channel * plan.out_values + k), job.out_type);
}

__device__ __forceinline__ float normalised(const Plan& plan, int channel, float v) {
  if (!(plan.flags & kNormalises)) return v;
  return (v - load_global<float>(plan.mean + channel)) / load_global<float>(plan.std + channel);
}

__device__ __forceinline__ int source_of(const Plan& plan, int p) {
  const int source = load_global<int32_t>(plan.source + p);
  return static_cast<uint32_t>(source) < static_cast<uint32_t>(plan.length) ? source : 0;
}

// a / b, by 32-bit division where that does: the 64-bit one is a long subroutine.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  if ((static_cast<uint64_t>(a) | static_cast<uint64_t>(b)) >> 32 == 0)
    return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// Where an element of a period is in memory that holds segments: its segment, and its place in that.
struct Place {
  int segment, offset;
};

__device__ __forceinline__ Place place_of(const Plan& plan, const Tiling& t, int p) {
  const int m = plan.block_size, c = plan.channels;
  if (t.channels_last) return {p / t.step, p % t.step};
  return {p % c * m + p / c / m, p / c % m};
}

__device__ __forceinline__ int position_of(const Plan& plan, const Tiling& t, Place place) {
  const int m = plan.block_size, c = plan.channels;
  if (t.channels_last) return place.segment * t.step + place.offset;
  return (place.segment % m * m + place.offset) * c + place.segment / m;
}

// An entry: bits 0-15 the byte of the tile where period 0 has the element, bits 16-30 the word where its
// value row starts (floats that are not quantised: its channel), bit 31 the parity of its flips.
constexpr uint32_t kEntryFlip = 1u << 31;
constexpr int kEntryRow = 16;
constexpr uint32_t kEntryByte = (1u << kEntryRow) - 1;

__device__ __forceinline__ int entry_row(uint32_t entry) {
  return static_cast<int>((entry & ~kEntryFlip) >> kEntryRow);
}

template <class In>
__device__ __forceinline__ void make_entries(const Job& job, const Tiling& t) {
  const Plan& plan = job.plan;
  constexpr int kItem = sizeof(In);
  const int channels = is_integer(job.out_type) ? 1 : plan.channels;
  for (int e = threadIdx.x; e < t.segments * t.period; e += kThreads) {
    const int y = e % t.period, block = y / t.step;
    const int p = position_of(plan, t, {e / t.period, y % t.step});
    const Place from = place_of(plan, t, source_of(plan, p));
    const int byte = (block * t.step + from.offset) * kItem;
    const int word = from.segment * t.in_chunks * (kVector / 4) + byte / 4;
    const int flips = load_global<uint8_t>(plan.flips + p);
    int table = load_global<uint8_t>(plan.table_of + p);
    if (table > plan.table_count) table = 0;
    const int channel = p % plan.channels;
    const int row =
        t.rows ? ((table * channels + channel % channels) * t.row_words) << t.log_copies : channel;
    store_shared<uint32_t>(t.entries + 4 * e, static_cast<uint32_t>(word * t.pitch * 4 + byte % 4) |
                                                  (flips & 1 ? kEntryFlip : 0u) |
                                                  static_cast<uint32_t>(row) << kEntryRow);
    if (!is_integer(job.in_type)) store_shared<uint8_t>(t.flips + e, static_cast<uint8_t>(flips));
  }
}

// The byte of shared memory with value k of the row that starts at word `row`, in this lane's copy.
template <class Out>
__device__ __forceinline__ int row_byte(const Tiling& t, int row, int k, int lane_byte) {
  constexpr int kPerWord = 4 / sizeof(Out);
  return 4 * row + (k / kPerWord << (t.log_copies + 2)) + k % kPerWord * static_cast<int>(sizeof(Out)) +
         lane_byte;
}

template <class Out>
__device__ __forceinline__ void make_rows(const Job& job, const Tiling& t) {
  const int values = job.plan.in_values, copies = 1 << t.log_copies;
  const int channels = is_integer(job.out_type) ? 1 : job.plan.channels;
  for (int i = threadIdx.x; i < t.rows * values; i += kThreads) {
    const int row = i / values, k = i % values;
    const Out value = static_cast<Out>(finished(job, row / channels, row % channels, k));
    const int start = (row * t.row_words) << t.log_copies;
    for (int copy = 0; copy < copies; ++copy) {
      store_shared<Out>(t.value_rows + row_byte<Out>(t, start, k, 4 * copy), value);
    }
  }
}

// Where the segments of a row of blocks begin, in bytes from where the row begins: {in, out}.
__device__ __forceinline__ void make_segment_bases(const Job& job, const Tiling& t) {
  const int m = job.plan.block_size;
  for (int s = threadIdx.x; s < t.segments; s += kThreads) {
    const int channel = t.channels_last ? 0 : s / m, row = s % m;
    store_shared<longlong2>(
        t.segment_bases + 16 * s,
        {(channel * job.in_stride[1] + row * job.in_stride[2]) * item_size(job.in_type),
         (channel * job.out_stride[1] + row * job.out_stride[2]) * item_size(job.out_type)});
  }
}

// Where period `index` of the batch begins, in bytes: {in, out}.
__device__ __forceinline__ longlong2 period_base(const Job& job, const Tiling& t, int64_t index) {
  const int64_t row = divide(index, t.periods_per_row), column = (index - row * t.periods_per_row) * t.period;
  const int64_t image = divide(row, t.block_rows), y = (row - image * t.block_rows) * job.plan.block_size;
  return {(image * job.in_stride[0] + y * job.in_stride[2] + column) * item_size(job.in_type),
          (image * job.out_stride[0] + y * job.out_stride[2] + column) * item_size(job.out_type)};
}

__device__ __forceinline__ void make_bases(const Job& job, const Tiling& t, int64_t tile, int half) {
  const int r = threadIdx.x;
  const int64_t index = (tile << t.log_periods) + r;
  if (r < 1 << t.log_periods && index < t.periods) {
    store_shared<longlong2>(t.bases + ((half << t.log_periods) + r) * 16, period_base(job, t, index));
  }
}

// A vector of a tile: the `chunk`-th of its segment in period r.
struct Item {
  int segment, r, chunk;
};

__device__ __forceinline__ Item item_of(const Tiling& t, int i, int chunks) {
  const int row = chunks == 1 ? i : static_cast<uint32_t>(i) / static_cast<uint32_t>(chunks);
  return {row >> t.log_periods, row & ((1 << t.log_periods) - 1), i - row * chunks};
}

__device__ __forceinline__ void stage_item(const Tiling& t, const Item& item, const uint4& vector) {
  const int word = (item.segment * t.in_chunks + item.chunk) * (kVector / 4);
  const int byte = t.tile + (word * t.pitch + item.r) * 4;
  store_shared<uint32_t>(byte, vector.x);
  store_shared<uint32_t>(byte + 4 * t.pitch, vector.y);
  store_shared<uint32_t>(byte + 8 * t.pitch, vector.z);
  store_shared<uint32_t>(byte + 12 * t.pitch, vector.w);
}

// Global to shared memory. Loads go in fours before their stores, so that each thread has four under way.
__device__ __forceinline__ void stage(const Job& job, const Tiling& t, int count, int half) {
  constexpr int kTogether = 4;
  const int items = (t.segments * t.in_chunks) << t.log_periods;
  const char* in = static_cast<const char*>(job.in);
  for (int first = threadIdx.x; first < items; first += kTogether * kThreads) {
    uint4 vectors[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const int i = first + u * kThreads;
      const Item item = item_of(t, i, t.in_chunks);
      if (i < items && item.r < count) {
        const int64_t base = load_shared<longlong2>(t.bases + ((half << t.log_periods) + item.r) * 16).x;
        const int64_t segment = load_shared<longlong2>(t.segment_bases + 16 * item.segment).x;
        vectors[u] = load_global<uint4>(in + base + segment + item.chunk * kVector);
      }
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const int i = first + u * kThreads;
      const Item item = item_of(t, i, t.in_chunks);
      if (i < items && item.r < count) stage_item(t, item, vectors[u]);
    }
  }
}

// The bits of one output element, given its entry.
template <class In, class Out, bool kFloat>
__device__ __forceinline__ uint32_t gathered(const Job& job, const Tiling& t, uint32_t entry, int element,
                                             int r, int lane_byte) {
  const Plan& plan = job.plan;
  const In stored = load_shared<In>(t.tile + static_cast<int>(entry & kEntryByte) + 4 * r);
  int k;
  if constexpr (kFloat) {
    const float v =
        flipped(to_float(stored, job.in_type), load_shared<uint8_t>(t.flips + element), job.in_type);
    if (!(plan.flags & kQuantises)) {
      return from_float(normalised(plan, entry_row(entry), v), job.out_type);
    }
    k = quantised(v, load_global<float>(plan.in_scale), plan);
  } else {
    k = stored;
    if constexpr (sizeof(In) == 1) {
      k ^= static_cast<int>(entry) >> 31 & 0xff;  // the sign bit, kEntryFlip: 255 - k
    } else {
      k = k < plan.in_values ? k : plan.in_values - 1;
      k = flipped(k, (entry & kEntryFlip) != 0);
    }
  }
  return load_shared<Out>(row_byte<Out>(t, entry_row(entry), k, lane_byte));
}

// Shared to global memory: each thread makes one vector of the output at a time.
template <class In, class Out, bool kFloat>
__device__ __forceinline__ void gather(const Job& job, const Tiling& t, int count, int half) {
  constexpr int kElements = kVector / sizeof(Out), kPerWord = 4 / sizeof(Out);
  const int items = (t.segments * t.out_chunks) << t.log_periods;
  const int lane_byte = t.value_rows + 4 * (threadIdx.x & ((1 << t.log_copies) - 1));
  char* out = static_cast<char*>(job.out);
  for (int i = threadIdx.x; i < items; i += kThreads) {
    const Item item = item_of(t, i, t.out_chunks);
    if (item.r >= count) continue;
    const int element = item.segment * t.period + item.chunk * kElements;
    uint32_t words[4];
#pragma unroll
    for (int four = 0; four < kElements; four += 4) {
      const uint4 entries = load_shared<uint4>(t.entries + 4 * (element + four));
      const uint32_t entry[4] = {entries.x, entries.y, entries.z, entries.w};
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const uint32_t bits =
            gathered<In, Out, kFloat>(job, t, entry[n], element + four + n, item.r, lane_byte);
        const int word = (four + n) / kPerWord,
                  shift = (four + n) % kPerWord * 8 * static_cast<int>(sizeof(Out));
        words[word] = shift ? words[word] | bits << shift : bits;
      }
    }
    const int64_t base = load_shared<longlong2>(t.bases + ((half << t.log_periods) + item.r) * 16).y;
    const int64_t segment = load_shared<longlong2>(t.segment_bases + 16 * item.segment).y;
    store_global<uint4>(out + base + segment + item.chunk * kVector,
                        {words[0], words[1], words[2], words[3]});
  }
}

// In and Out are the types of storage; the job tells float16 and bfloat16 apart.
template <class In, class Out, bool kFloat>
__global__ void __launch_bounds__(kThreads, 4) tiles(const Job job, const Tiling t) {
  make_entries<In>(job, t);
  make_rows<Out>(job, t);
  make_segment_bases(job, t);
  int half = 0;
  make_bases(job, t, blockIdx.x, half);
  for (int64_t tile = blockIdx.x; tile < t.tiles; tile += gridDim.x) {
    const int64_t left = t.periods - (tile << t.log_periods);
    const int count = left < 1 << t.log_periods ? static_cast<int>(left) : 1 << t.log_periods;
    __syncthreads();  // the tile before is written out, the bases of this one are there
    stage(job, t, count, half);
    __syncthreads();
    make_bases(job, t, tile + gridDim.x, half ^ 1);
    gather<In, Out, kFloat>(job, t, count, half);
    half ^= 1;
  }
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

// The bits of the output at position p of a block, given the bits that position reads.
__device__ __forceinline__ uint32_t transformed(const Job& job, int p, uint32_t bits) {
  const Plan& plan = job.plan;
  const int flips = load_global<uint8_t>(plan.flips + p), channel = p % plan.channels;
  int k;
  if (is_integer(job.in_type)) {
    k = static_cast<int>(bits) < plan.in_values ? static_cast<int>(bits) : plan.in_values - 1;
    k = flipped(k, flips & 1);
  } else {
    const float v = flipped(to_float(bits, job.in_type), flips, job.in_type);
    if (!(plan.flags & kQuantises)) return from_float(normalised(plan, channel, v), job.out_type);
    k = quantised(v, load_global<float>(plan.in_scale), plan);
  }
  return finished(job, load_global<uint8_t>(plan.table_of + p), channel, k);
}

// One output element a thread, the columns of the output fastest: any strides, any types.
__global__ void __launch_bounds__(kThreads, 4) elements(const Job job) {
  const Plan& plan = job.plan;
  const int m = plan.block_size, c = plan.channels;
  const int64_t total = job.n * c * job.h * job.w, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += stride) {
    const int64_t line = divide(i, job.w), x = i - line * job.w;
    const int64_t plane = divide(line, job.h), y = line - plane * job.h;
    const int64_t image = divide(plane, c);
    const int channel = static_cast<int>(plane - image * c);
    const int row = static_cast<int>(y - divide(y, m) * m), column = static_cast<int>(x - divide(x, m) * m);
    const int p = (row * m + column) * c + channel, source = source_of(plan, p), pixel = source / c;
    const int64_t from = image * job.in_stride[0] + source % c * job.in_stride[1] +
                         (y - row + pixel / m) * job.in_stride[2] +
                         (x - column + pixel % m) * job.in_stride[3];
    const int64_t to = image * job.out_stride[0] + channel * job.out_stride[1] + y * job.out_stride[2] +
                       x * job.out_stride[3];
    store_bits(job.out, to, job.out_type, transformed(job, p, load_bits(job.in, from, job.in_type)));
  }
}

}  // namespace blockenc
