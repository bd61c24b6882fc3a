// The vector kernel, for every instruction set: blocks as lanes of 16 bytes, moved by byte shuffles.
//
// A *lane* is 16 bytes of one row of pixels: as many whole block rows as fit (four for M = 4), or a
// *segment* of one where a block row is longer. A *line* is what one lane position holds for many blocks
// in turn, lane after lane; a block has `lines` of them, C*M for planar images with M <= 16. Every output
// line is then the OR of byte shuffles of input lines, two lines a shuffle, the same shuffle in each lane,
// whatever the steps; negatives are a XOR, tables a look-up under a mask.
//
// Work goes in chunks that fit in the first-level cache: the input lines of a chunk are gathered from
// memory, each output line is made and put where it belongs. Large outputs are put together in a stage
// first, then written past the caches in the order of memory, whole cache lines at a time, while the next
// chunk's input is on its way.
//
// Included by one file for each instruction set, after that has chosen its target and defined `Vector`:
//   bytes                       of a vector, a multiple of 16
//   unroll                      vectors in flight, to hide the latency of a shuffle
//   load, store, broadcast      unaligned; broadcast repeats 16 bytes
//   streams, stream, fence      whether there are stores past the caches; an aligned one; what orders them
//   prefetch                    asks for a cache line, into the second-level cache
//   Control(lane), shuffle(a, b, control)   in each lane: for lane[j] < 16 byte lane[j] of a, for
//                               lane[j] < 32 byte lane[j] - 16 of b, for kNone 0
//   either, exclusive_or, select(mask, a, b)
//   Table, lookup(table, x)     256 bytes, and a look-up of every byte of x in them
//   wide_lookups                whether looking up the bytes of wider results one by one pays; if so
//   spread<n>, interleave       bytes to n vectors of n-byte results, see TableFinish
// Everything here is in an unnamed namespace: each file has its own, compiled for its instruction set.

#include "kernels.h"
#include "values.h"

namespace blockenc {
namespace {

constexpr int kLane = 16;
constexpr uint8_t kNone = 0x80;
constexpr int kLanes = Vector::bytes / kLane;
constexpr int kCacheLine = 64;
constexpr int64_t kChunkBytes = 12 * 1024;  // of input: with the output, what the first-level cache holds
constexpr int64_t kMostSlots = 128;         // lanes of a line in a chunk, at most
constexpr int64_t kLeastSlots = 8;          // ... and at least
constexpr int64_t kStreamBytes = 8 << 20;   // outputs larger than this are not read back from a cache

// How blocks become lanes and lines: of a plan, a value type and an arrangement of pixels.
struct Geometry {
  bool planar;  // rows hold one channel; otherwise channels are interleaved
  int m, channels;
  int items;       // of a block row: M, or M*C interleaved
  int block_rows;  // C*M, or M interleaved
  int full;        // items that fit in a lane
  int segments;    // lanes of a block row, 1 where it fits in a lane
  int lane_items;  // items in use of a lane
  int lines;       // of a block

  Geometry(const Plan& plan, int item_bytes, bool planar)
      : planar(planar), m(plan.block_size), channels(plan.channels) {
    items = planar ? m : m * channels;
    block_rows = planar ? m * channels : m;
    full = kLane / item_bytes;
    segments = (items + full - 1) / full;
    lane_items = segments == 1 ? full / items * items : full;
    lines = block_rows * segments;
  }

  // The first item of a segment; the last one overlaps its neighbour rather than being short.
  int segment_start(int segment) const { return segments == 1 ? 0 : std::min(segment * full, items - full); }

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

// The shuffles that make each output line: those from first[line] to first[line + 1].
struct Shuffles {
  struct Shuffle {
    int a, b;  // input lines
    Vector::Control control;
  };
  std::vector<Shuffle> all;
  std::vector<int> first;

  Shuffles(const Geometry& geometry, const Plan& plan, int item_bytes) {
    struct Source {
      int line;
      uint8_t bytes[kLane];
    };
    std::vector<Source> sources;  // of an output line
    for (int o = 0; o < geometry.lines; ++o) {
      first.push_back(static_cast<int>(all.size()));
      sources.clear();
      for (int t = 0; t < geometry.lane_items; ++t) {
        const int block = geometry.segments == 1 ? t / geometry.items : 0;
        int from;
        const int line = geometry.line_of(plan.source[geometry.position(o, t)], block, &from);
        size_t k = 0;
        while (k < sources.size() && sources[k].line != line) ++k;
        if (k == sources.size()) {
          sources.push_back({line, {}});
          std::fill_n(sources[k].bytes, kLane, kNone);
        }
        for (int b = 0; b < item_bytes; ++b) {
          sources[k].bytes[t * item_bytes + b] = static_cast<uint8_t>(from * item_bytes + b);
        }
      }
      for (size_t k = 0; k < sources.size(); k += 2) {
        Source& a = sources[k];
        const Source& b = sources[std::min(k + 1, sources.size() - 1)];
        for (int j = 0; j < kLane; ++j) {
          if (b.line != a.line && b.bytes[j] != kNone) a.bytes[j] = static_cast<uint8_t>(kLane + b.bytes[j]);
        }
        all.push_back({a.line, b.line, Vector::Control(a.bytes)});
      }
    }
    first.push_back(static_cast<int>(all.size()));
  }
};

// A table that some items of a lane go through.
struct Mask {
  uint8_t lanes[kLane];  // 0xff where they do
  int table;
};

// Which mask of masks[first...] has this table; made if there is none.
inline size_t mask_of(std::vector<Mask>* masks, size_t first, int table) {
  size_t k = first;
  while (k < masks->size() && (*masks)[k].table != table) ++k;
  if (k == masks->size()) masks->push_back({{}, table});
  return k;
}

// Bytes to bytes: y = x ^ before; y = base[y] under a mask, for each base the line needs; y ^= after.
struct ByteFinish {
  struct Line {
    uint8_t before[kLane], after[kLane];
    int first, count;  // of masks
    bool complements;  // `after` is not all 0
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
        line.complements |= complement_at[plan.table_of[p]];
        if (base < 0) continue;
        masks[mask_of(&masks, line.first, base)].lanes[t] = 0xff;
      }
      line.count = static_cast<int>(masks.size()) - line.first;
      lines.push_back(line);
    }
  }

  // Makes an output line by `shuffled(change)`, which makes it with each vector changed.
  template <class Shuffled>
  void line(int o, Shuffled&& shuffled) const {
    const Line& line = lines[o];
    const auto before = Vector::broadcast(line.before), after = Vector::broadcast(line.after);
    const Mask* mask = masks.data() + line.first;
    auto make = [&](auto&& substitute) {
      if (line.complements) {
        shuffled(
            [&](auto x) { return Vector::exclusive_or(substitute(Vector::exclusive_or(x, before)), after); });
      } else {
        shuffled([&](auto x) { return substitute(Vector::exclusive_or(x, before)); });
      }
    };
    if (line.count == 0) {
      make([](auto x) { return x; });
    } else if (line.count == 1) {
      const Vector::Table table(bases.data() + mask->table * kByteValues);
      const auto lanes = Vector::broadcast(mask->lanes);
      make([&](auto x) { return Vector::select(lanes, Vector::lookup(table, x), x); });
    } else {
      make([&](auto x) {
        auto y = x;
        for (int k = 0; k < line.count; ++k) {
          const Vector::Table table(bases.data() + mask[k].table * kByteValues);
          y = Vector::select(Vector::broadcast(mask[k].lanes), Vector::lookup(table, x), y);
        }
        return y;
      });
    }
  }
};

// Bytes to wider types: y = x ^ before, then each byte of the result is a look-up of its own, for each table
// (substitution and output stage in one) the line needs.
template <class Out, class V>  // V is Vector, where that has what it takes
struct TableFinish {
  static constexpr int n = sizeof(typename Out::Storage);
  struct Line {
    uint8_t before[kLane];
    int first, count;  // of masks
  };
  std::vector<Line> lines;
  std::vector<Mask> masks;
  std::vector<uint8_t> tables;  // [table][byte of the result][256]

  TableFinish(const Geometry& geometry, const Plan& plan) {
    const int channels = kInteger<Out> ? 1 : plan.channels;  // without an output stage all are alike
    std::vector<int> table_at((plan.table_count + 1) * channels, -1);
    for (int o = 0; o < geometry.lines; ++o) {
      Line line = {};
      line.first = static_cast<int>(masks.size());
      for (int t = 0; t < geometry.lane_items; ++t) {
        const int p = geometry.position(o, t);
        int& table = table_at[plan.table_of[p] * channels + p % plan.channels % channels];
        if (table < 0) {
          table = static_cast<int>(tables.size()) / (n * kByteValues);
          tables.resize(tables.size() + n * kByteValues);
          for (int v = 0; v < kByteValues; ++v) {
            const auto out = finish<Out>(plan, p % plan.channels, substitute(plan, plan.table_of[p], v));
            uint8_t bytes[n];
            std::memcpy(bytes, &out, n);
            for (int b = 0; b < n; ++b) tables[(table * n + b) * kByteValues + v] = bytes[b];
          }
        }
        line.before[t] = plan.flips[p] & 1 ? 0xff : 0;
        masks[mask_of(&masks, line.first, table)].lanes[t] = 0xff;
      }
      line.count = static_cast<int>(masks.size()) - line.first;
      lines.push_back(line);
    }
  }

  // Of a shuffled line of `bytes` bytes, a multiple of a vector.
  void line(int o, const char* from, int64_t bytes, char* to) const {
    const Line& line = lines[o];
    const auto before = V::broadcast(line.before);
    for (int64_t x = 0; x < bytes; x += V::bytes, to += n * V::bytes) {
      const auto in = V::template spread<n>(V::exclusive_or(V::load(from + x), before));
      typename V::type out[n];
      for (int k = 0; k < line.count; ++k) {
        const Mask& mask = masks[line.first + k];
        const auto lanes = V::template spread<n>(V::broadcast(mask.lanes));
        for (int b = 0; b < n; ++b) {
          const typename V::Table table(tables.data() + (mask.table * n + b) * kByteValues);
          const auto found = V::lookup(table, in);
          out[b] = k ? V::select(lanes, found, out[b]) : found;
        }
      }
      V::interleave(out);
      for (int b = 0; b < n; ++b) V::store(to + b * V::bytes, out[b]);
    }
  }
};

// Any other types: each item by itself, with what is fixed for an item of a line looked up before.
template <class In, class Out>
struct ItemFinish {
  static constexpr int full = kLane / sizeof(typename In::Storage);
  const Plan& plan;
  IntegerRows<Out> rows;
  std::vector<int> positions;  // [lines][full]; the last ones repeat where fewer are in use

  ItemFinish(const Geometry& geometry, const Plan& plan)
      : plan(plan), rows(plan), positions(geometry.lines * full) {
    for (int o = 0; o < geometry.lines; ++o) {
      for (int t = 0; t < geometry.lane_items; ++t) positions[o * full + t] = geometry.position(o, t);
    }
  }

  // Of a shuffled line of `bytes` bytes, a multiple of a lane.
  void line(int o, const char* from, int64_t bytes, char* to) const {
    const auto* in = reinterpret_cast<const typename In::Storage*>(from);
    auto* out = reinterpret_cast<typename Out::Storage*>(to);
    int64_t slots = bytes / kLane;
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

// Slots [slot, slot + slots) of a row of blocks.
struct Run {
  char* out;  // the row of blocks
  int64_t slot, slots;
};

// Where the lanes of a row of pixels are, in a job.
struct Slots {
  const Geometry& geometry;
  int64_t row_items;
  int64_t row_slots;  // lanes across a row of blocks
  int64_t used;       // items of a lane that are written
  int granule;  // lanes that are together in memory and in a vector, where lanes follow without gaps; or 0

  Slots(const Geometry& geometry, const Job& job) : geometry(geometry) {
    row_items = geometry.planar ? job.w : job.w * geometry.channels;
    used = std::min<int64_t>(geometry.lane_items, row_items);
    row_slots = geometry.segments == 1 ? (row_items + used - 1) / used : job.w / geometry.m;
    granule = 0;
    if (geometry.segments == 1 && used == geometry.full && row_items % used == 0) {
      granule = kLanes;
      while (row_slots % granule) granule /= 2;
    }
  }

  // Slots to a granule; single ones where there are none.
  int64_t unit() const { return std::max(granule, 1); }

  // The first item of a slot in its row of pixels; the last slot overlaps rather than being short.
  int64_t start(int64_t slot) const {
    return geometry.segments == 1 ? std::min(slot * used, row_items - used) : slot * geometry.items;
  }

  // One past the last item of a run.
  int64_t end(const Run& run) const {
    const int64_t last = start(run.slot + run.slots - 1);
    return last + (geometry.segments == 1 ? used : geometry.items);
  }
};

// Consecutive runs, as many slots in each, and where each granule (or slot) of them begins.
struct Chunk {
  std::vector<Run> runs;
  std::vector<const char*> in;  // of each granule, in the first line
  std::vector<char*> out;
  int64_t slots = 0;

  // Takes the runs from slot `done` of the rows of blocks from `first` on.
  void fill(const Job& job, const Slots& at, int in_bytes, int out_bytes, int64_t first, int64_t done,
            int64_t count) {
    const int64_t block_rows = job.h / job.plan.block_size;
    runs.clear();
    in.clear();
    out.clear();
    slots = count;
    for (int64_t taken = 0; taken < count;) {
      const int64_t r = first + (done + taken) / at.row_slots, slot = (done + taken) % at.row_slots;
      const int64_t image = r / block_rows, row = r % block_rows * job.plan.block_size;
      const char* from =
          static_cast<const char*>(job.in) + (image * job.in_stride[0] + row * job.in_stride[2]) * in_bytes;
      char* to =
          static_cast<char*>(job.out) + (image * job.out_stride[0] + row * job.out_stride[2]) * out_bytes;
      runs.push_back({to, slot, std::min(at.row_slots - slot, count - taken)});
      for (int64_t k = slot; k < slot + runs.back().slots; k += at.unit()) {
        in.push_back(from + at.start(k) * in_bytes);
        out.push_back(to + at.start(k) * out_bytes);
      }
      taken += runs.back().slots;
    }
  }
};

// What a thread works in; kept for its next call.
struct Workspace {
  Chunk now, next;
  std::vector<char*> staged;  // of each granule, in the stage
  std::vector<char> memory;

  // At least `bytes` bytes that begin a cache line.
  char* room(int64_t bytes) {
    if (static_cast<int64_t>(memory.size()) < bytes + kCacheLine) memory.resize(bytes + kCacheLine);
    return memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & (kCacheLine - 1));
  }
};

template <int size>
void gather(char* to, const char* const* from, int64_t count, int64_t offset) {
  for (int64_t k = 0; k < count; ++k, to += size) std::memcpy(to, from[k] + offset, size);
}

template <int size>
void scatter(char* const* to, const char* from, int64_t count, int64_t offset) {
  for (int64_t k = 0; k < count; ++k, from += size) std::memcpy(to[k] + offset, from, size);
}

// Calls f with the granule as a constant.
template <class F>
void with_granule(int granule, F&& f) {
  if constexpr (kLanes >= 4) {
    if (granule == 4) return f(std::integral_constant<int, 4>());
  }
  if constexpr (kLanes >= 2) {
    if (granule == 2) return f(std::integral_constant<int, 2>());
  }
  f(std::integral_constant<int, 1>());
}

// Past the caches, whole cache lines where they are.
void stream_bytes(char* to, const char* from, int64_t bytes) {
  const int64_t head = std::min<int64_t>(-reinterpret_cast<uintptr_t>(to) & (kCacheLine - 1), bytes);
  std::memcpy(to, from, head);
  int64_t k = head;
  for (; k + kCacheLine <= bytes; k += kCacheLine) {
    for (int v = 0; v < kCacheLine; v += Vector::bytes)
      Vector::stream(to + k + v, Vector::load(from + k + v));
  }
  std::memcpy(to + k, from + k, bytes - k);
}

// One output line out of input lines of `bytes` bytes, a multiple of a vector, each vector of it changed.
template <class Change>
void shuffle_line(const char* lines, int64_t bytes, const Shuffles::Shuffle* shuffle,
                  const Shuffles::Shuffle* end, char* to, Change&& change) {
  int64_t x = 0;
  auto step = [&](auto unroll) {
    constexpr int n = decltype(unroll)::value;
    typename Vector::type sum[n];
    auto add = [&](const Shuffles::Shuffle& s, auto&& take) {
      const char *a = lines + s.a * bytes + x, *b = lines + s.b * bytes + x;
      for (int u = 0; u < n; ++u) {
        take(u, Vector::shuffle(Vector::load(a + u * Vector::bytes), Vector::load(b + u * Vector::bytes),
                                s.control));
      }
    };
    add(*shuffle, [&](int u, auto y) { sum[u] = y; });
    for (const auto* s = shuffle + 1; s != end; ++s) {
      add(*s, [&](int u, auto y) { sum[u] = Vector::either(sum[u], y); });
    }
    for (int u = 0; u < n; ++u) Vector::store(to + x + u * Vector::bytes, change(sum[u]));
    x += n * Vector::bytes;
  };
  while (bytes - x >= Vector::unroll * Vector::bytes) step(std::integral_constant<int, Vector::unroll>());
  while (x < bytes) step(std::integral_constant<int, 1>());
}

// Calls f(line, channel, row, item) for each line: where it begins in a block, from the block's first pixel.
template <class F>
void each_line(const Geometry& geometry, F&& f) {
  int line = 0;
  for (int row = 0; row < geometry.block_rows; ++row) {
    for (int s = 0; s < geometry.segments; ++s) {
      f(line++, row / geometry.m, row % geometry.m, geometry.segment_start(s));
    }
  }
}

template <class In, class Out>
class LineKernel : public Kernel {
  static constexpr bool kBytes = std::is_same_v<In, U8> && std::is_same_v<Out, U8>;
  static constexpr bool kTables = std::is_same_v<In, U8> && !kBytes && Vector::wide_lookups;
  static constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  static constexpr int out_lane = kLane / in_bytes * out_bytes;
  using Finish =
      std::conditional_t<kBytes, ByteFinish,
                         std::conditional_t<kTables, TableFinish<Out, Vector>, ItemFinish<In, Out>>>;

 public:
  LineKernel(const Plan& plan, bool planar)
      : geometry_(plan, in_bytes, planar), shuffles_(geometry_, plan, in_bytes), finish_(geometry_, plan) {}

  void run(const Job& job, int64_t first, int64_t last) const override {
    thread_local Workspace work;
    const Slots at(geometry_, job);
    const int64_t total = (last - first) * at.row_slots;
    const int64_t fits = 2 * kChunkBytes / (geometry_.lines * (kLane + out_lane));
    const int64_t capacity = std::clamp(fits, kLeastSlots, kMostSlots);
    // Whole rows of blocks where several fit, else a part of one.
    const bool rows = at.row_slots <= capacity;
    const int64_t most = std::max(capacity / (rows ? at.row_slots : at.unit()), int64_t{1}) *
                         (rows ? at.row_slots : at.unit());
    auto fill = [&](Chunk* chunk, int64_t done) {
      const int64_t rest = rows ? total - done : at.row_slots - done % at.row_slots;
      chunk->fill(job, at, in_bytes, out_bytes, first, done, std::min(most, rest));
    };
    const bool stream =
        Vector::streams && job.n * job.h * job.w * job.plan.channels * out_bytes > kStreamBytes;
    fill(&work.now, 0);
    for (int64_t done = 0; done < total; std::swap(work.now, work.next)) {
      done += work.now.slots;
      if (done < total) fill(&work.next, done);
      make(job, at, &work, stream, done < total);
    }
    if (stream) Vector::fence();
  }

 private:
  void make(const Job& job, const Slots& at, Workspace* work, bool stream, bool more) const {
    const Chunk& now = work->now;
    const int64_t bytes = (now.slots * kLane + Vector::bytes - 1) / Vector::bytes * Vector::bytes;
    const int64_t lines = geometry_.lines * bytes;
    char* const in =
        work->room(lines + bytes + bytes / kLane * out_lane + now.slots * geometry_.lines * out_lane);
    char* const shuffled = in + lines;
    char* const finished = kBytes ? shuffled : shuffled + bytes;
    char* const stage = finished + bytes / kLane * out_lane;

    each_line(geometry_, [&](int s, int channel, int row, int item) {
      const int64_t offset = (channel * job.in_stride[1] + row * job.in_stride[2] + item) * in_bytes;
      gather_line(at, now, offset, in + s * bytes);
      // The next chunk comes into the second-level cache meanwhile.
      if (stream && more) {
        for (const char* from : work->next.in) Vector::prefetch(from + offset);
      }
    });

    // A run's part of one row of pixels; in the stage they lie as in memory, without gaps.
    const Run& run = now.runs.front();
    const int64_t run_bytes = (at.end(run) - at.start(run.slot)) * out_bytes;
    const int64_t runs = now.runs.size(), m = geometry_.m;
    if (stream) {
      work->staged.clear();
      for (int64_t r = 0; r < runs; ++r) {
        char* const start = stage + r * m * run_bytes - at.start(run.slot) * out_bytes;
        for (int64_t k = run.slot; k < run.slot + run.slots; k += at.unit()) {
          work->staged.push_back(start + at.start(k) * out_bytes);
        }
      }
    }
    each_line(geometry_, [&](int o, int channel, int row, int item) {
      const Shuffles::Shuffle* shuffle = shuffles_.all.data() + shuffles_.first[o];
      const Shuffles::Shuffle* end = shuffles_.all.data() + shuffles_.first[o + 1];
      if constexpr (kBytes) {
        finish_.line(o, [&](auto&& change) { shuffle_line(in, bytes, shuffle, end, shuffled, change); });
      } else {
        shuffle_line(in, bytes, shuffle, end, shuffled, [](auto x) { return x; });
        finish_.line(o, shuffled, kTables ? bytes : now.slots * kLane, finished);
      }
      if (stream) {
        scatter_line(at, now, work->staged, (channel * runs * m + row) * run_bytes + item * out_bytes,
                     finished);
      } else {
        const int64_t offset = channel * job.out_stride[1] + row * job.out_stride[2] + item;
        scatter_line(at, now, now.out, offset * out_bytes, finished);
      }
    });
    if (stream) write_stage(job, at, now, stage, run_bytes);
  }

  // One input line of a chunk.
  void gather_line(const Slots& at, const Chunk& chunk, int64_t offset, char* to) const {
    if (at.granule) {
      return with_granule(at.granule, [&](auto granule) {
        gather<granule * kLane>(to, chunk.in.data(), chunk.in.size(), offset);
      });
    }
    const char* const* from = chunk.in.data();
    for (const Run& run : chunk.runs) {
      for (int64_t k = run.slot; k < run.slot + run.slots; ++k, ++from, to += kLane) {
        // Nothing is read beyond a row of pixels.
        if (at.start(k) + geometry_.full <= at.row_items) {
          std::memcpy(to, *from + offset, kLane);
        } else {
          std::memcpy(to, *from + offset, at.used * in_bytes);
        }
      }
    }
  }

  // One output line of a chunk, to its granules (or slots) in memory or in the stage.
  void scatter_line(const Slots& at, const Chunk& chunk, const std::vector<char*>& granules, int64_t offset,
                    const char* from) const {
    if (at.granule) {
      return with_granule(at.granule, [&](auto granule) {
        scatter<granule * out_lane>(granules.data(), from, granules.size(), offset);
      });
    }
    char* const* to = granules.data();
    for (const Run& run : chunk.runs) {
      const int64_t end = at.end(run);
      for (int64_t k = run.slot; k < run.slot + run.slots; ++k, ++to, from += out_lane) {
        // What a slot writes beyond its items the next ones overwrite, but for the last.
        if (at.start(k) + geometry_.full <= end) {
          std::memcpy(*to + offset, from, out_lane);
        } else {
          std::memcpy(*to + offset, from, at.used * out_bytes);
        }
      }
    }
  }

  // The stage to memory, what follows there in one piece.
  void write_stage(const Job& job, const Slots& at, const Chunk& chunk, const char* stage,
                   int64_t run_bytes) const {
    char* to = nullptr;
    int64_t bytes = 0;
    auto write = [&] {
      stream_bytes(to, stage, bytes);
      stage += bytes;
      bytes = 0;
    };
    for (int channel = 0; channel < geometry_.block_rows / geometry_.m; ++channel) {
      for (const Run& run : chunk.runs) {
        char* const start = run.out + (at.start(run.slot) + channel * job.out_stride[1]) * out_bytes;
        for (int row = 0; row < geometry_.m; ++row, bytes += run_bytes) {
          char* const here = start + row * job.out_stride[2] * out_bytes;
          if (to + bytes != here) {
            write();
            to = here;
          }
        }
      }
    }
    write();
  }

  Geometry geometry_;
  Shuffles shuffles_;
  Finish finish_;
};

// Level::make for `Vector`.
std::unique_ptr<const Kernel> make_lines(const Plan& plan, Type in, Type out, Layout layout) {
  if (layout == Layout::any) return make_portable(plan, in, out, layout);
  std::unique_ptr<const Kernel> kernel;
  with_types(in, out, [&](auto in_type, auto out_type) {
    kernel =
        std::make_unique<LineKernel<decltype(in_type), decltype(out_type)>>(plan, layout == Layout::planar);
  });
  return kernel;
}

}  // namespace
}  // namespace blockenc
