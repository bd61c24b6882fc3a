// The kernel `tiles`, for uniform plans: it moves images by 16-byte vectors, through shared memory
// (tiling.h). Its functions are told constants of csrc/cuda/tuning.h: kThreadCount, the threads of a thread
// block, kPadded, whether vectors are set apart in shared memory, and kAhead, how many tiles are under way.

#pragma once

#include <type_traits>

#include "tiling.h"
#include "values.cuh"

namespace blockenc {

// Where an element of a block is: its pixel row, and which element of that.
struct Place {
  int pixel_row, offset;
};

__device__ __forceinline__ Place place_of(const Plan& plan, const Tiling& t, int p) {
  const int m = plan.block_size, c = plan.channels;
  if (t.channels_last) return {p / t.block_stride, p % t.block_stride};
  return {p % c * m + p / c / m, p / c % m};
}

__device__ __forceinline__ int position_of(const Plan& plan, const Tiling& t, Place place) {
  const int m = plan.block_size, c = plan.channels;
  if (t.channels_last) return place.pixel_row * t.block_stride + place.offset;
  return (place.pixel_row % m * m + place.offset) * c + place.pixel_row / m;
}

// Where bundle 0 of a tile has an element, in words.
template <class In, bool kPadded>
__device__ __forceinline__ int word_of(const Tiling& t, int element) {
  const int word = element * t.pitch;
  if constexpr (kPadded) return word + element / (kVector / static_cast<int>(sizeof(In))) * t.padding;
  return word;
}

// Where the entry of an element of the output is, in bytes. Set apart, the entries of two vectors begin in
// different banks, too.
template <bool kPadded>
__device__ __forceinline__ int entry_of(const Tiling& t, int element) {
  if constexpr (kPadded) return t.entries + 4 * (element + element / kVector * kEntryPadding);
  return t.entries + 4 * element;
}

// An entry says where an element of the output comes from. Bits 0-15: the byte of the tile where bundle 0 has
// the element. Bits 16-31: the byte where its lookup table begins; its channel, for floats that are not
// quantised.
constexpr int kEntryLookup = 16;  // the first of the upper bits
constexpr uint32_t kEntryByte = (1u << kEntryLookup) - 1;

// A lookup table has what becomes of every integer, from load to store, for one (substitution table, channel,
// parity of flips). As many lookup tables as fit share a word for every integer: a group.
__device__ __forceinline__ int lookup_of(const Tiling& t, int table, int channel, int flips) {
  return (table * t.lookup_channels + channel % t.lookup_channels) * t.parities + flips % t.parities;
}

template <class T>
constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));

template <class In, class Out, int kThreadCount, bool kPadded>
__device__ __forceinline__ void make_entries(const Job& job, const Tiling& t) {
  const Plan& plan = job.plan;
#pragma unroll 1  // done once: less code matters more
  for (int e = threadIdx.x; e < t.pixel_rows * t.strip; e += kThreadCount) {
    const int y = e % t.strip, block = y / t.block_stride;
    const int p = position_of(plan, t, {e / t.strip, y % t.block_stride});
    const Place from = place_of(plan, t, index_below(plan.source + p, plan.length));
    const int word = from.pixel_row * t.strip + block * t.block_stride + from.offset;
    const int flips = load_global<uint8_t>(plan.flips + p), channel = p % plan.channels;
    int table = load_global<uint16_t>(plan.table_of + p);
    if (table > plan.table_count) table = 0;
    const int lookup = lookup_of(t, table, channel, flips);
    const int start = t.groups ? lookup / kPerWord<Out> * t.group_bytes +
                                     lookup % kPerWord<Out> * static_cast<int>(sizeof(Out))
                               : channel;
    store_shared<uint32_t>(entry_of<kPadded>(t, e), static_cast<uint32_t>(word_of<In, kPadded>(t, word) * 4) |
                                                        static_cast<uint32_t>(start) << kEntryLookup);
    if (!is_integer(job.in_type)) store_shared<uint8_t>(t.flips + e, static_cast<uint8_t>(flips));
  }
}

template <class Out, int kThreadCount>
__device__ __forceinline__ void make_lookups(const Job& job, const Tiling& t) {
  const int values = job.plan.in_values, copies = t.value_bytes / 4;
#pragma unroll 1
  for (int i = threadIdx.x; i < t.groups * values; i += kThreadCount) {
    const int group = i / values, k = i % values;
    uint32_t word = 0;
#pragma unroll 1
    for (int part = 0; part < kPerWord<Out>; ++part) {
      const int lookup = group * kPerWord<Out> + part;
      const int table = lookup / t.parities / t.lookup_channels;
      const int channel = lookup / t.parities % t.lookup_channels;
      const uint32_t bits = integer_output(job, table, channel, flip_integer(k, lookup % t.parities));
      word |= bits << (part * 8 * static_cast<int>(sizeof(Out))) % 32;
    }
    const int begin = kLookups + group * t.group_bytes + k * t.value_bytes;
    if (copies < kBanks) {
      for (int copy = 0; copy < copies; ++copy) store_shared<uint32_t>(begin + 4 * copy, word);
    } else {
#pragma unroll
      for (int copy = 0; copy < kBanks; copy += 4) {  // each lane starts at other banks
        const int bank = (copy + 4 * threadIdx.x) % kBanks;
        store_shared<uint4>(begin + 4 * bank, {word, word, word, word});
      }
    }
  }
}

// Where each pixel row of a block row begins, in bytes from the beginning of the block row: {in, out}.
template <int kThreadCount>
__device__ __forceinline__ void make_row_bases(const Job& job, const Tiling& t) {
  const int m = job.plan.block_size;
#pragma unroll 1
  for (int s = threadIdx.x; s < t.pixel_rows; s += kThreadCount) {
    const int channel = t.channels_last ? 0 : s / m, row = s % m;
    store_shared<longlong2>(
        t.row_bases + 16 * s,
        {(channel * job.in_stride[1] + row * job.in_stride[2]) * item_size(job.in_type),
         (channel * job.out_stride[1] + row * job.out_stride[2]) * item_size(job.out_type)});
  }
}

// Where strip `index` of the batch begins, in bytes: {in, out}.
__device__ __forceinline__ longlong2 strip_base(const Job& job, const Tiling& t, int64_t index) {
  const int64_t row = divide(index, t.strips_per_row), x = (index - row * t.strips_per_row) * t.strip;
  const int64_t image = divide(row, t.block_rows), y = (row - image * t.block_rows) * job.plan.block_size;
  return {(image * job.in_stride[0] + y * job.in_stride[2] + x) * item_size(job.in_type),
          (image * job.out_stride[0] + y * job.out_stride[2] + x) * item_size(job.out_type)};
}

__device__ __forceinline__ int tile_strips(const Tiling& t, int64_t tile) {
  return part_size(t.strips, t.log_strips, tile);
}

// Where each strip of a tile begins, into one of the slots (strip_slots).
template <int kThreadCount>
__device__ __forceinline__ void make_strip_bases(const Job& job, const Tiling& t, int64_t tile, int slot) {
  const int count = tile_strips(t, tile);
#pragma unroll 1
  for (int r = threadIdx.x; r < count; r += kThreadCount) {
    store_shared<longlong2>(t.strip_bases + ((slot << t.log_strips) + r) * 16,
                            strip_base(job, t, (tile << t.log_strips) + r));
  }
}

// What a thread moves at once: one vector of a pixel row, of every strip of a bundle.
struct Item {
  int pixel_row, bundle, vector;
};

__device__ __forceinline__ Item item_of(const Tiling& t, int i, int vectors_per_row) {
  const int row =
      vectors_per_row == 1 ? i : static_cast<uint32_t>(i) / static_cast<uint32_t>(vectors_per_row);
  return {row >> t.log_bundles, row & ((1 << t.log_bundles) - 1), i - row * vectors_per_row};
}

// Items of a tile of the input.
__device__ __forceinline__ int in_items(const Tiling& t) {
  return (t.pixel_rows * t.in_vectors) << t.log_bundles;
}

// Where a strip of the tile and a pixel row of it begin in memory, in bytes: {in, out}.
__device__ __forceinline__ longlong2 strip_begin(const Tiling& t, int slot, int r) {
  return load_shared<longlong2>(t.strip_bases + ((slot << t.log_strips) + r) * 16);
}

__device__ __forceinline__ longlong2 row_begin(const Tiling& t, int pixel_row) {
  return load_shared<longlong2>(t.row_bases + 16 * pixel_row);
}

// Where a thread loads an item from: bytes from the beginning of the input's strip. Where in the tile it puts
// it. (Offsets, since the compiler would no longer know of a pointer that may be null that it is to global
// memory.)
struct ItemLoad {
  int64_t begin;
  int bundle;  // negative: there is no such item
  int byte;
};

template <class In, bool kPadded>
__device__ __forceinline__ ItemLoad load_of_item(const Tiling& t, int i) {
  if (i >= in_items(t)) return {0, -1, 0};
  const Item item = item_of(t, i, t.in_vectors);
  const int element = item.pixel_row * t.strip + item.vector * (kVector / static_cast<int>(sizeof(In)));
  return {row_begin(t, item.pixel_row).x + item.vector * kVector, item.bundle,
          t.tile + (word_of<In, kPadded>(t, element) + item.bundle) * 4};
}

// Global memory to registers. Strips beyond the batch are zeros.
template <class In>
__device__ __forceinline__ void load_item(const Job& job, const Tiling& t, const ItemLoad& load, int count,
                                          int slot, uint4 (&vectors)[kPerWord<In>]) {
  if (load.bundle < 0) return;
#pragma unroll
  for (int u = 0; u < kPerWord<In>; ++u) {
    const int r = load.bundle + (u << t.log_bundles);
    vectors[u] =
        r < count
            ? load_global<uint4>(static_cast<const char*>(job.in) + load.begin + strip_begin(t, slot, r).x)
            : uint4{0, 0, 0, 0};
  }
}

// From one word of each strip of a bundle, the words that hold an element of every strip each.
__device__ __forceinline__ void interleave(const uint32_t (&in)[1], uint32_t (&out)[1]) { out[0] = in[0]; }

__device__ __forceinline__ void interleave(const uint32_t (&in)[2], uint32_t (&out)[2]) {
  out[0] = byte_perm(in[0], in[1], 0x5410);
  out[1] = byte_perm(in[0], in[1], 0x7632);
}

__device__ __forceinline__ void interleave(const uint32_t (&in)[4], uint32_t (&out)[4]) {
  const uint32_t low[2] = {byte_perm(in[0], in[1], 0x5140), byte_perm(in[2], in[3], 0x5140)};
  const uint32_t high[2] = {byte_perm(in[0], in[1], 0x7362), byte_perm(in[2], in[3], 0x7362)};
  out[0] = byte_perm(low[0], low[1], 0x5410);
  out[1] = byte_perm(low[0], low[1], 0x7632);
  out[2] = byte_perm(high[0], high[1], 0x5410);
  out[3] = byte_perm(high[0], high[1], 0x7632);
}

// Registers to shared memory.
template <class In>
__device__ __forceinline__ void stage_item(const Tiling& t, const ItemLoad& load,
                                           const uint4 (&vectors)[kPerWord<In>]) {
  if (load.bundle < 0) return;
  int byte = load.byte;
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    uint32_t in[kPerWord<In>], out[kPerWord<In>];
#pragma unroll
    for (int u = 0; u < kPerWord<In>; ++u) {
      const uint4& v = vectors[u];
      in[u] = word == 0 ? v.x : word == 1 ? v.y : word == 2 ? v.z : v.w;
    }
    interleave(in, out);
#pragma unroll
    for (int u = 0; u < kPerWord<In>; ++u, byte += 4 * t.pitch) store_shared<uint32_t>(byte, out[u]);
  }
}

// Loads of the next tile that wait in registers: kInFlight vectors a thread, of as many items as that makes.
// Other items are loaded when they are staged.
template <class In, int kThreadCount, bool kPadded>
class RegisterLoads {
 public:
  static constexpr int kTiles = 1;  // under way at once

  // Begins to load the first tile, of so many strips. Slot 0 has where they begin.
  __device__ __forceinline__ RegisterLoads(const Job& job, const Tiling& t, int count) {
#pragma unroll
    for (int n = 0; n < kItems; ++n) {
      loads_[n] = load_of_item<In, kPadded>(t, n * kThreadCount + threadIdx.x);
      load_item<In>(job, t, loads_[n], count, 0, vectors_[n]);
    }
  }

  // The same with a later tile. slot: which one has where its strips begin.
  __device__ __forceinline__ void begin(const Job& job, const Tiling& t, int count, int slot) {
#pragma unroll
    for (int n = 0; n < kItems; ++n) load_item<In>(job, t, loads_[n], count, slot, vectors_[n]);
  }

  // Puts the bundles of the tile that was begun first into shared memory.
  __device__ __forceinline__ void stage(const Job& job, const Tiling& t, int count, int slot) {
#pragma unroll
    for (int n = 0; n < kItems; ++n) stage_item<In>(t, loads_[n], vectors_[n]);
    const int items = in_items(t);
#pragma unroll 1
    for (int i = kItems * kThreadCount + threadIdx.x; i < items; i += kThreadCount) {
      const ItemLoad load = load_of_item<In, kPadded>(t, i);
      load_item<In>(job, t, load, count, slot, vectors_[0]);
      stage_item<In>(t, load, vectors_[0]);
    }
  }

 private:
  static constexpr int kItems = kInFlight / kPerWord<In>;
  ItemLoad loads_[kItems];
  uint4 vectors_[kItems][kPerWord<In>];
};

// The same by asynchronous copies, which wait in shared memory. Each thread stages what it has copied itself,
// so it waits for its own copies, and for no barrier.
template <class In, int kThreadCount, bool kPadded, int kAhead>
class SharedLoads {
 public:
  static constexpr int kTiles = kAhead;

  __device__ __forceinline__ SharedLoads(const Job& job, const Tiling& t, int count)
      : first_(load_of_item<In, kPadded>(t, threadIdx.x)) {
    begin(job, t, count, 0);
  }

  // Strips beyond the batch are the last one again: all places are filled, and nobody writes those out.
  __device__ __forceinline__ void begin(const Job& job, const Tiling& t, int count, int slot) {
    if (count) {
      each_item(t, [&](const ItemLoad& load, int place) {
#pragma unroll
        for (int u = 0; u < kPerWord<In>; ++u, place += kVector * in_items(t)) {
          const int r = load.bundle + (u << t.log_bundles), last = count - 1;
          const int64_t strip = strip_begin(t, slot, r < last ? r : last).x;
          copy_async(place, static_cast<const char*>(job.in) + load.begin + strip);
        }
      });
    }
    commit_copies();  // a group for each tile, if there is one or not, since groups are counted
    oldest_ = (oldest_ + 1) % kTiles;
  }

  __device__ __forceinline__ void stage(const Job&, const Tiling& t, int, int) {
    wait_copies<kTiles - 1>();
    each_item(t, [&](const ItemLoad& load, int place) {
      uint4 vectors[kPerWord<In>];
#pragma unroll
      for (int u = 0; u < kPerWord<In>; ++u, place += kVector * in_items(t))
        vectors[u] = load_shared<uint4>(place);
      stage_item<In>(t, load, vectors);
    });
  }

 private:
  // Calls f(load, place) for each item of this thread. place: where the oldest tile in shared memory has the
  // vector of its first strip; those of the other strips of a bundle follow in_items vectors apart.
  template <class F>
  __device__ __forceinline__ void each_item(const Tiling& t, const F& f) const {
    const int items = in_items(t), tile = t.under_way + oldest_ * kPerWord<In> * items * kVector;
    if (first_.bundle >= 0) f(first_, tile + static_cast<int>(threadIdx.x) * kVector);
#pragma unroll 1
    for (int i = kThreadCount + threadIdx.x; i < items; i += kThreadCount)
      f(load_of_item<In, kPadded>(t, i), tile + i * kVector);
  }

  const ItemLoad first_;  // kept, which also lets the compiler keep where shared memory begins
  int oldest_ = 0;        // of kTiles places for tiles, which one is to be staged next, then to be filled
};

// The bits of one output element. bits: what its entry found in the tile. lookup: where its lookup table
// begins, or its channel.
template <class In, class Out, bool kFloat>
__device__ __forceinline__ uint32_t tile_output(const Job& job, const Tiling& t, uint32_t bits, int lookup,
                                                int flips) {
  const Plan& plan = job.plan;
  int k;
  if constexpr (kFloat) {
    const Type type = sizeof(In) == 4 ? Type::f32 : job.in_type;
    const float v = flip_float(to_float(bits, type), flips, type, plan.flags);
    if (!(plan.flags & kQuantises)) {
      return from_float(normalise(plan, lookup, v), sizeof(Out) == 4 ? Type::f32 : job.out_type);
    }
    k = quantise(v, load_global<float>(plan.in_scale), plan);
    if (plan.flags & kNearest && t.parities == 1) k = flip_integer(k, flips & 1);
  } else {
    k = static_cast<int>(bits);
    if constexpr (sizeof(In) > 1) k = k < plan.in_values ? k : plan.in_values - 1;
  }
  return load_shared<Out>(kLookups + k * t.value_bytes + lookup);
}

// The element of strip u in a word of the tile.
template <class In>
__device__ __forceinline__ uint32_t value_of(uint32_t word, int u) {
  if constexpr (sizeof(In) == 1) return byte_perm(word, 0, 0x4440 + u);
  if constexpr (sizeof(In) == 2) return byte_perm(word, 0, u ? 0x4432 : 0x4410);
  return word;
}

// Shared to global memory: each thread makes the vectors of one item at a time.
template <class In, class Out, bool kFloat, int kThreadCount, bool kPadded>
__device__ __forceinline__ void write_tile(const Job& job, const Tiling& t, int count, int slot) {
  constexpr int kElements = kVector / sizeof(Out), kColumn = kPerWord<In>;
  const int items = (t.pixel_rows * t.out_vectors) << t.log_bundles;
  // Which of the copies of a lookup table this lane reads. A table begins at a multiple of all copies of a
  // word, so an `or` selects the copy. The compiler would rearrange a sum, and add twice for every value.
  const uint32_t lane_byte = t.groups ? 4 * threadIdx.x & (t.value_bytes - 1) : 0;
  for (int i = threadIdx.x; i < items; i += kThreadCount) {
    const Item item = item_of(t, i, t.out_vectors);
    const int element = item.pixel_row * t.strip + item.vector * kElements, tile = t.tile + 4 * item.bundle;
    uint32_t words[kColumn][4];
#pragma unroll
    for (int four = 0; four < kElements; four += 4) {
      const uint4 entries = load_shared<uint4>(entry_of<kPadded>(t, element) + 4 * four);
      const uint32_t entry[4] = {entries.x, entries.y, entries.z, entries.w};
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const uint32_t bundle = load_shared<uint32_t>(tile + static_cast<int>(entry[n] & kEntryByte));
        const int lookup = static_cast<int>(entry[n] >> kEntryLookup | lane_byte);
        const int flips = kFloat ? load_shared<uint8_t>(t.flips + element + four + n) : 0;
        const int word = (four + n) / kPerWord<Out>,
                  shift = (four + n) % kPerWord<Out> * 8 * static_cast<int>(sizeof(Out));
#pragma unroll
        for (int u = 0; u < kColumn; ++u) {
          const uint32_t bits = tile_output<In, Out, kFloat>(job, t, value_of<In>(bundle, u), lookup, flips);
          words[u][word] = shift ? words[u][word] | bits << shift : bits;
        }
      }
    }
    char* pixel_row = static_cast<char*>(job.out) + row_begin(t, item.pixel_row).y + item.vector * kVector;
#pragma unroll
    for (int u = 0; u < kColumn; ++u) {
      const int r = item.bundle + (u << t.log_bundles);
      if (r < count) {
        store_global<uint4>(pixel_row + strip_begin(t, slot, r).y,
                            {words[u][0], words[u][1], words[u][2], words[u][3]});
      }
    }
  }
}

constexpr int kResidentThreads = 768;  // of a multiprocessor: 80 registers for each

// In and Out are the types of storage; the job tells float16 and bfloat16 apart.
template <class In, class Out, bool kFloat, int kThreadCount, bool kPadded, int kAhead>
__global__ void __launch_bounds__(kThreadCount, kResidentThreads / kThreadCount)
    tiles(const Job job, const Tiling t) {
  using Loads = std::conditional_t<kAhead == 0, RegisterLoads<In, kThreadCount, kPadded>,
                                   SharedLoads<In, kThreadCount, kPadded, kAhead>>;
  constexpr int kUnderWay = Loads::kTiles, kSlots = strip_slots(kAhead);
  static_assert(kUnderWay <= 2);
  const int64_t stride = gridDim.x;
  int64_t tile = blockIdx.x;
  make_row_bases<kThreadCount>(job, t);
  make_strip_bases<kThreadCount>(job, t, tile, 0);
  make_strip_bases<kThreadCount>(job, t, tile + stride, 1);
  if constexpr (kUnderWay == 2) make_strip_bases<kThreadCount>(job, t, tile + 2 * stride, 2);
  __syncthreads();
  Loads loads(job, t, tile_strips(t, tile));
  if constexpr (kUnderWay == 2) loads.begin(job, t, tile_strips(t, tile + stride), 1);
  make_entries<In, Out, kThreadCount, kPadded>(job, t);
  make_lookups<Out, kThreadCount>(job, t);
  int slots[kUnderWay + 1];  // of the tile in work, and of those after it
#pragma unroll
  for (int n = 0; n <= kUnderWay; ++n) slots[n] = n;
  for (; tile < t.tiles; tile += stride) {
    const int count = tile_strips(t, tile), next_count = tile_strips(t, tile + kUnderWay * stride);
    loads.stage(job, t, count, slots[0]);
    __syncthreads();
    loads.begin(job, t, next_count, slots[kUnderWay]);  // meanwhile
    int after = kSlots * (kSlots - 1) / 2;              // becomes the slot that is left
#pragma unroll
    for (int n = 0; n <= kUnderWay; ++n) after -= slots[n];
    make_strip_bases<kThreadCount>(job, t, tile + (kUnderWay + 1) * stride, after);
    write_tile<In, Out, kFloat, kThreadCount, kPadded>(job, t, count, slots[0]);
    __syncthreads();  // the tile is written out, and where the next to be begun lies is known
#pragma unroll
    for (int n = 0; n < kUnderWay; ++n) slots[n] = slots[n + 1];
    slots[kUnderWay] = after;
  }
}

}  // namespace blockenc
