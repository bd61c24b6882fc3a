// The vector kernel, for every instruction set: blocks as lanes of 16 bytes, moved by byte shuffles.
//
// A *lane* is 16 bytes of one row of pixels: as many whole block rows as fit (four for M = 4), or a
// *segment* of one where a block row is longer. A *line* is what one lane position holds for many blocks
// in turn, lane after lane; a block has `lines` of them, C*M for planar images with M <= 16. Every output
// line is then the XOR of at most 16 byte shuffles of input lines, the same shuffle in each lane, whatever
// the steps; negatives are a XOR, ffx a look-up under a mask.
//
// Included by one file for each instruction set, after that has chosen its target and defined `Vector`:
//   bytes                       of a vector, a multiple of 16
//   load, store, broadcast      unaligned; broadcast repeats 16 bytes
//   stream16                    stores 16 bytes, aligned, past the caches;  fence orders those
//   shuffle(x, control)         in each lane: byte control[j] of x, or 0 where control[j] is kNone
//   exclusive_or, select(mask, a, b)
//   Table, lookup(table, x)     256 bytes, and a look-up of every byte of x in them
// Everything here is in an unnamed namespace: each file has its own, compiled for its instruction set.

#include "kernels.h"
#include "values.h"

namespace blockenc {
namespace {

constexpr int kLane = 16;
constexpr uint8_t kNone = 0x80;
constexpr int kUnroll = 4;                    // vectors in flight, to hide the latency of a shuffle
constexpr int64_t kScratch = 32 * 1024;       // input lines of a chunk stay in the first-level cache
constexpr int64_t kMostSlots = 64;            // lanes of a line in a chunk, at most
constexpr int64_t kLeastSlots = 4 * kUnroll;  // ... and at least
constexpr int64_t kStreamBytes = 8 << 20;     // outputs larger than this are not read back from a cache

// How blocks become lanes; the same for every row of blocks.
struct Geometry {
  bool supported = false;
  bool planar;  // rows hold one channel; otherwise channels are interleaved
  int m, channels;
  int items;          // of a block row: M, or M*C interleaved
  int block_rows;     // C*M, or M interleaved
  int full;           // items that fit in a lane
  int segments;       // lanes of a block row, 1 where it fits in a lane
  int lane_items;     // items in use of a lane
  int lines;          // of a block
  int64_t row_items;  // of a row of pixels
  int64_t slots;      // lanes across a row of blocks

  explicit Geometry(const Job& job) {
    m = job.plan.block_size;
    channels = job.plan.channels;
    const bool in_planar = job.in_stride[3] == 1, out_planar = job.out_stride[3] == 1;
    auto interleaved = [&](const int64_t* stride) { return stride[1] == 1 && stride[3] == channels; };
    planar = in_planar && out_planar;
    if (!planar && !(interleaved(job.in_stride) && interleaved(job.out_stride))) return;
    supported = true;
    items = planar ? m : m * channels;
    block_rows = planar ? m * channels : m;
    full = kLane / item_size(job.in_type);
    row_items = planar ? job.w : job.w * channels;
    const int64_t block_columns = job.w / m;
    if (items <= full) {
      segments = 1;
      lane_items = static_cast<int>(std::min<int64_t>(full / items, block_columns)) * items;
      slots = (row_items + lane_items - 1) / lane_items;
    } else {
      segments = (items + full - 1) / full;
      lane_items = full;
      slots = block_columns;
    }
    lines = block_rows * segments;
  }

  // Whether the lanes of a line follow each other in memory without gaps.
  bool contiguous() const { return segments == 1 && lane_items == full && row_items % full == 0; }

  // The first item of a segment; the last one overlaps its neighbour rather than being short.
  int segment_start(int segment) const { return segments == 1 ? 0 : std::min(segment * full, items - full); }

  // The first item of a slot in its row of pixels, likewise.
  int64_t slot_start(int64_t slot) const {
    return segments == 1 ? std::min(slot * lane_items, row_items - lane_items) : slot * items;
  }

  // Where item `item` of a lane of `line` lies in the block vector.
  int position(int line, int item) const {
    const int row = line / segments;
    const int e = segments == 1 ? item % items : segment_start(line % segments) + item;
    return planar ? (row % m * m + e) * channels + row / m : row * items + e;
  }

  // The line that holds position p, and which of its items that is, in the block `block` of a lane.
  int line_of(int p, int block, int* item) const {
    const int row = planar ? p % channels * m + p / channels / m : p / items;
    const int e = planar ? p / channels % m : p % items;
    if (segments == 1) {
      *item = block * items + e;
      return row;
    }
    const int segment = std::min(e / full, segments - 1);
    *item = e - segment_start(segment);
    return row * segments + segment;
  }

  // Bytes from the start of a row of blocks to the start of a line, in an image with these strides.
  int64_t line_offset(int line, const int64_t* stride, int item_bytes) const {
    const int row = line / segments;
    const int64_t start = planar ? row / m * stride[1] + row % m * stride[2] : row * stride[2];
    return (start + segment_start(line % segments)) * item_bytes;
  }
};

// The shuffles that make each output line: `count` of them from `first` on.
struct Shuffles {
  std::vector<int32_t> first;
  std::vector<int32_t> line;     // the input line of each shuffle
  std::vector<uint8_t> control;  // [shuffles][kLane]

  Shuffles(const Geometry& geometry, const Plan& plan, int item_bytes) {
    for (int o = 0; o < geometry.lines; ++o) {
      first.push_back(static_cast<int32_t>(line.size()));
      for (int t = 0; t < geometry.lane_items; ++t) {
        const int block = geometry.segments == 1 ? t / geometry.items : 0;
        int from;
        const int source = geometry.line_of(plan.source[geometry.position(o, t)], block, &from);
        size_t k = first.back();
        while (k < line.size() && line[k] != source) ++k;
        if (k == line.size()) {
          line.push_back(source);
          control.resize(control.size() + kLane, kNone);
        }
        uint8_t* bytes = control.data() + k * kLane;
        for (int b = 0; b < item_bytes; ++b) {
          bytes[t * item_bytes + b] = static_cast<uint8_t>(from * item_bytes + b);
        }
      }
    }
    first.push_back(static_cast<int32_t>(line.size()));
  }
};

// Bytes to bytes: y = x ^ before; y = base[y] under a mask, for each base the line needs; y ^= after.
struct ByteFinish {
  struct Line {
    uint8_t before[kLane], after[kLane];
    int first, count;  // of masks
  };
  struct Mask {
    uint8_t lanes[kLane];
    int base;
  };
  std::vector<Line> lines;
  std::vector<Mask> masks;
  std::vector<uint8_t> bases;  // [base][256]

  // A table is a base, or a base's complement (so look-ups before np and after it share one); base -1 is
  // the identity.
  int base_of(const uint16_t* table, bool* complement) {
    uint8_t bytes[kByteValues];
    for (int k = 0; k < kByteValues; ++k) bytes[k] = static_cast<uint8_t>(table[k]);
    const int count = static_cast<int>(bases.size()) / kByteValues;
    for (int base = -1; base < count; ++base) {
      auto same = [&](int mask) {
        for (int k = 0; k < kByteValues; ++k) {
          if (bytes[k] != ((base < 0 ? k : bases[base * kByteValues + k]) ^ mask)) return false;
        }
        return true;
      };
      *complement = same(0xff);
      if (*complement || same(0)) return base;
    }
    bases.insert(bases.end(), bytes, bytes + kByteValues);
    return count;
  }

  ByteFinish(const Geometry& geometry, const Plan& plan) {
    int base_at[256];  // of each table_of value
    bool complement_at[256];
    base_at[0] = -1;
    complement_at[0] = false;
    for (int t = 0; t < plan.table_count; ++t) {
      base_at[t + 1] = base_of(plan.tables + t * plan.in_values, &complement_at[t + 1]);
    }
    for (int o = 0; o < geometry.lines; ++o) {
      Line line = {};
      line.first = static_cast<int>(masks.size());
      for (int t = 0; t < geometry.lane_items; ++t) {
        const int p = geometry.position(o, t);
        const int base = base_at[plan.table_of[p]];
        line.before[t] = plan.flips[p] & 1 ? 0xff : 0;
        line.after[t] = complement_at[plan.table_of[p]] ? 0xff : 0;
        if (base < 0) continue;
        size_t k = line.first;
        while (k < masks.size() && masks[k].base != base) ++k;
        if (k == masks.size()) masks.push_back({{}, base});
        masks[k].lanes[t] = 0xff;
      }
      line.count = static_cast<int>(masks.size()) - line.first;
      lines.push_back(line);
    }
  }
};

// Any other types: each item by itself, with what is fixed for an item of a line looked up before.
template <class In, class Out>
struct ItemFinish {
  static constexpr int full = kLane / sizeof(typename In::Storage);
  const Plan& plan;
  IntegerRows<Out> rows;
  std::vector<int> positions;  // [lines][full]

  ItemFinish(const Geometry& geometry, const Plan& plan)
      : plan(plan), rows(plan), positions(geometry.lines * full) {
    for (int o = 0; o < geometry.lines; ++o) {
      for (int t = 0; t < geometry.lane_items; ++t) positions[o * full + t] = geometry.position(o, t);
    }
  }

  void line(int o, const typename In::Storage* in, typename Out::Storage* out, int64_t slots) const {
    const int* position = positions.data() + o * full;
    if constexpr (kInteger<In>) {
      const int top = rows.last_value();
      const typename Out::Storage* row[full];
      for (int t = 0; t < full; ++t) row[t] = rows.row(position[t]);
      for (; slots > 0; --slots, in += full, out += full) {
        for (int t = 0; t < full; ++t) {
          out[t] = row[t][std::is_same_v<In, U8> ? In::load(in[t]) : std::min(In::load(in[t]), top)];
        }
      }
    } else {
      for (; slots > 0; --slots, in += full, out += full) {
        for (int t = 0; t < full; ++t) {
          out[t] = transform_float<In, Out>(plan, position[t], position[t] % plan.channels, in[t]);
        }
      }
    }
  }
};

// Up to `slots` lanes of a row of blocks, in memory and in a line.
struct Run {
  const char* in;  // start of the row of blocks
  char* out;
  int64_t slot;  // the first
  int64_t slots;
};

void copy_run(char* to, const char* from, int64_t bytes) {
  for (; bytes >= Vector::bytes; bytes -= Vector::bytes, to += Vector::bytes, from += Vector::bytes) {
    Vector::store(to, Vector::load(from));
  }
  for (; bytes >= kLane; bytes -= kLane, to += kLane, from += kLane) std::memcpy(to, from, kLane);
  if (bytes) std::memcpy(to, from, bytes);  // floats to smaller types end in a part of a lane
}

// The same past the caches: whole lanes, to an address that is a multiple of one.
void stream_run(char* to, const char* from, int64_t bytes) {
  for (; bytes > 0; bytes -= kLane, to += kLane, from += kLane) Vector::stream16(to, from);
}

template <int most>
void read_line(const Geometry& geometry, int item_bytes, const Run& run, int64_t offset, char* to) {
  const char* row = run.in + offset;
  if (geometry.contiguous())
    return copy_run(to, row + geometry.slot_start(run.slot) * item_bytes, run.slots * most);
  const int64_t bytes = geometry.lane_items * item_bytes;
  const int64_t end = geometry.segments == 1 ? geometry.row_items * item_bytes : INT64_MAX;
  for (int64_t k = 0; k < run.slots; ++k, to += most) {
    const int64_t start = geometry.slot_start(run.slot + k) * item_bytes;
    if (end - start >= most) {
      std::memcpy(to, row + start, most);
    } else {
      std::memcpy(to, row + start, bytes);
    }
  }
}

// Lanes are written in order, so what one writes past its items is written again by the next; the last
// lane of a row writes its items alone.
template <int most>
void write_line(const Geometry& geometry, int item_bytes, const Run& run, int64_t offset, const char* from,
                bool stream) {
  char* row = run.out + offset;
  if (geometry.contiguous()) {
    char* to = row + geometry.slot_start(run.slot) * item_bytes;
    const int64_t bytes = run.slots * most;
    const bool aligned = reinterpret_cast<uintptr_t>(to) % kLane == 0 && bytes % kLane == 0;
    return stream && aligned ? stream_run(to, from, bytes) : copy_run(to, from, bytes);
  }
  const int64_t bytes = geometry.lane_items * item_bytes;
  const int64_t end = geometry.segments == 1 ? geometry.row_items * item_bytes : INT64_MAX;
  for (int64_t k = 0; k < run.slots; ++k, from += most) {
    const int64_t start = geometry.slot_start(run.slot + k) * item_bytes;
    if (end - start >= most) {
      std::memcpy(row + start, from, most);
    } else {
      std::memcpy(row + start, from, bytes);
    }
  }
}

// One output line, before its values change: `bytes` of it, a multiple of a vector.
template <class Change>
void shuffle_line(const char* scratch, int64_t pitch, const int32_t* lines, const uint8_t* controls,
                  int count, char* to, int64_t bytes, Change&& change) {
  int64_t x = 0;
  auto step = [&](auto unroll) {
    constexpr int n = decltype(unroll)::value;
    typename Vector::type sum[n];
    for (int u = 0; u < n; ++u) sum[u] = Vector::zero();
    for (int k = 0; k < count; ++k) {
      const auto control = Vector::broadcast(controls + k * kLane);
      const char* from = scratch + lines[k] * pitch + x;
      for (int u = 0; u < n; ++u) {
        sum[u] =
            Vector::exclusive_or(sum[u], Vector::shuffle(Vector::load(from + u * Vector::bytes), control));
      }
    }
    for (int u = 0; u < n; ++u) Vector::store(to + x + u * Vector::bytes, change(sum[u]));
    x += n * Vector::bytes;
  };
  while (bytes - x >= kUnroll * Vector::bytes) step(std::integral_constant<int, kUnroll>());
  while (x < bytes) step(std::integral_constant<int, 1>());
}

template <class In, class Out>
void run_lines(const Job& job, const Geometry& geometry, int64_t first, int64_t last) {
  constexpr bool kBytes = std::is_same_v<In, U8> && std::is_same_v<Out, U8>;
  constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  constexpr int out_lane = kLane / in_bytes * out_bytes;
  using Finish = std::conditional_t<kBytes, ByteFinish, ItemFinish<In, Out>>;
  const Shuffles shuffles(geometry, job.plan, in_bytes);
  const Finish finish(geometry, job.plan);
  std::vector<int64_t> in_offset(geometry.lines), out_offset(geometry.lines);  // from a row of blocks
  for (int s = 0; s < geometry.lines; ++s) {
    in_offset[s] = geometry.line_offset(s, job.in_stride, in_bytes);
    out_offset[s] = geometry.line_offset(s, job.out_stride, out_bytes);
  }

  const int64_t capacity = std::clamp(kScratch / (geometry.lines * kLane), kLeastSlots, kMostSlots);
  const int64_t row_slots = geometry.slots;
  // Whole rows of blocks where several fit: their lines then end where the next ones begin.
  const int64_t chunk = row_slots <= capacity ? capacity / row_slots * row_slots : capacity;
  const int64_t pitch = (chunk * kLane + Vector::bytes - 1) / Vector::bytes * Vector::bytes;
  std::vector<char> scratch(geometry.lines * pitch + pitch + pitch / kLane * out_lane);
  std::vector<Run> runs;
  char* const gathered = scratch.data() + geometry.lines * pitch;
  char* const finished = gathered + pitch;
  const bool stream = job.n * job.h * job.w * job.plan.channels * out_bytes > kStreamBytes;

  const int64_t block_rows = job.h / geometry.m;
  const int64_t total = (last - first) * row_slots;
  for (int64_t done = 0; done < total;) {
    const int64_t slots = std::min(chunk, total - done);
    runs.clear();
    for (int64_t taken = 0; taken < slots;) {
      const int64_t r = first + (done + taken) / row_slots, slot = (done + taken) % row_slots;
      const int64_t image = r / block_rows, row = r % block_rows * geometry.m;
      const int64_t count = std::min(row_slots - slot, slots - taken);
      runs.push_back(
          {static_cast<const char*>(job.in) + (image * job.in_stride[0] + row * job.in_stride[2]) * in_bytes,
           static_cast<char*>(job.out) + (image * job.out_stride[0] + row * job.out_stride[2]) * out_bytes,
           slot, count});
      taken += count;
    }
    for (int s = 0; s < geometry.lines; ++s) {
      char* to = scratch.data() + s * pitch;
      for (const Run& run : runs) {
        read_line<kLane>(geometry, in_bytes, run, in_offset[s], to);
        to += run.slots * kLane;
      }
    }
    const int64_t bytes = (slots * kLane + Vector::bytes - 1) / Vector::bytes * Vector::bytes;
    for (int o = 0; o < geometry.lines; ++o) {
      const int32_t* lines = shuffles.line.data() + shuffles.first[o];
      const uint8_t* controls = shuffles.control.data() + shuffles.first[o] * kLane;
      const int count = shuffles.first[o + 1] - shuffles.first[o];
      const char* from = gathered;
      if constexpr (kBytes) {
        const ByteFinish::Line& line = finish.lines[o];
        const auto before = Vector::broadcast(line.before), after = Vector::broadcast(line.after);
        const ByteFinish::Mask* masks = finish.masks.data() + line.first;
        auto make = [&](auto&& substitute) {
          shuffle_line(scratch.data(), pitch, lines, controls, count, gathered, bytes, [&](auto x) {
            return Vector::exclusive_or(substitute(Vector::exclusive_or(x, before)), after);
          });
        };
        if (line.count == 0) {
          make([](auto x) { return x; });
        } else if (line.count == 1) {
          const Vector::Table table(finish.bases.data() + masks->base * kByteValues);
          const auto mask = Vector::broadcast(masks->lanes);
          make([&](auto x) { return Vector::select(mask, Vector::lookup(table, x), x); });
        } else {
          make([&](auto x) {
            auto y = x;
            for (int k = 0; k < line.count; ++k) {
              const Vector::Table table(finish.bases.data() + masks[k].base * kByteValues);
              y = Vector::select(Vector::broadcast(masks[k].lanes), Vector::lookup(table, x), y);
            }
            return y;
          });
        }
      } else {
        shuffle_line(scratch.data(), pitch, lines, controls, count, gathered, bytes,
                     [](auto x) { return x; });
        finish.line(o, reinterpret_cast<const typename In::Storage*>(gathered),
                    reinterpret_cast<typename Out::Storage*>(finished), slots);
        from = finished;
      }
      for (const Run& run : runs) {
        write_line<out_lane>(geometry, out_bytes, run, out_offset[o], from, stream);
        from += run.slots * out_lane;
      }
    }
    done += slots;
  }
  if (stream) Vector::fence();
}

// Level::run for `Vector`. Pixels that do not follow each other in memory are left to the portable kernel.
void run_vectors(const Job& job, int64_t first, int64_t last) {
  const Geometry geometry(job);
  if (!geometry.supported) return run_portable(job, first, last);
  with_types(job,
             [&](auto in, auto out) { run_lines<decltype(in), decltype(out)>(job, geometry, first, last); });
}

}  // namespace
}  // namespace blockenc
