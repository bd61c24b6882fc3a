// The vector kernel, for every instruction set: lanes of blocks, moved by byte shuffles.
//
// A *lane* is what a shuffle can reach, 16 bytes or more of one row of pixels: as many whole block rows as
// fit (four for M = 4 and 16 bytes), or a *segment* of one where a block row is longer. A *line* is what one
// lane position holds for many blocks in turn; a block has `lines` of them, C*M for planar images. Every
// output line is then the OR of byte shuffles of input lines, two lines a shuffle, the same shuffle in each
// lane, whatever the steps; negatives are a XOR, tables a look-up under a mask.
//
// Work goes in chunks that fit in the first-level cache. A vector is loaded and stored in *pieces* that are
// together in memory, one where lanes follow each other without gaps or there is but one. Large outputs are
// put together in a stage, then written past the caches in the order of memory, whole cache lines at a time,
// while the next chunk's input is on its way.
//
// Included by one file for each instruction set, after that has chosen its target and defined `Vector`:
//   bytes, unroll               of a vector; vectors in flight, to hide the latency of a shuffle
//   lane, narrow_lane           bytes of a lane, for rows of pixels of `lane` bytes or more, and for shorter
//   ones load, store                 unaligned load(a, b), store(a, b, x)  the same by halves streams,
//   stream, fence      whether there are stores past the caches; an aligned one; what orders them prefetch
//   asks for a cache line, into the second-level cache Control(from, lane), shuffle(a, b, control)   in each
//   lane: for from[j] < lane byte from[j] of a, for
//                               from[j] < 2 * lane byte from[j] - lane of b, for kNone 0
//   either, exclusive_or, select(mask, a, b)
//   Table, lookup(table, x)     256 bytes, and a look-up of every byte of x in them
//   wide_lookups                whether looking up the bytes of wider results one by one pays; if so
//   spread<n>, interleave       bytes to n vectors of n-byte results, see TableFinish
// Everything here is in an unnamed namespace: each file has its own, compiled for its instruction set.

#include "kernels.h"
#include "values.h"

namespace blockenc {
namespace {

constexpr int kNone = -1;
constexpr bool kHalves = Vector::narrow_lane < Vector::bytes;  // whether vectors may have two pieces
constexpr int kCacheLine = 64;
constexpr int64_t kChunkBytes = 12 * 1024;  // of input: with the output, what the first-level cache holds
constexpr int64_t kLeastVectors = 16;       // of a line in a chunk, at least: each line has a start
constexpr int64_t kMostVectors = 64;        // of a line in a chunk, at most
constexpr int64_t kStreamBytes = 3 << 20;   // outputs larger than this are not read back from a cache

// How blocks become lanes and lines: of a plan, a value type and an arrangement of pixels.
struct Geometry {
  bool planar;  // rows hold one channel; otherwise channels are interleaved
  int m, channels;
  int items;       // of a block row: M, or M*C interleaved
  int block_rows;  // C*M, or M interleaved
  int lane;        // bytes
  int full;        // items that fit in a lane
  int segments;    // lanes of a block row, 1 where it fits in a lane
  int lane_items;  // items in use of a lane
  int lines;       // of a block

  Geometry(const Plan& plan, int item_bytes, bool planar, int lane)
      : planar(planar), m(plan.block_size), channels(plan.channels), lane(lane) {
    items = planar ? m : m * channels;
    block_rows = planar ? m * channels : m;
    full = lane / item_bytes;
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
};

// Repeats what `set(t, bytes)` makes of each item t of a lane over the lanes of a vector.
struct Pattern {
  uint8_t bytes[Vector::bytes] = {};

  void set(const Geometry& geometry, int t) {
    const int size = geometry.lane / geometry.full;
    for (int at = 0; at < Vector::bytes; at += geometry.lane) std::memset(bytes + at + t * size, 0xff, size);
  }
  Vector::type load() const { return Vector::load(bytes); }
};

// The shuffles that make each output line: those from first[line] to first[line + 1].
struct Shuffles {
  struct Shuffle {
    int a, b;  // input lines
    Vector::Control control;
  };
  std::vector<Shuffle> all;
  std::vector<int> first;

  const Shuffle* begin(int line) const { return all.data() + first[line]; }

  Shuffles(const Geometry& geometry, const Plan& plan, int item_bytes) {
    struct Source {
      int line;
      int16_t bytes[Vector::lane];
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
          std::fill_n(sources[k].bytes, Vector::lane, int16_t{kNone});
        }
        for (int b = 0; b < item_bytes; ++b) {
          sources[k].bytes[t * item_bytes + b] = static_cast<int16_t>(from * item_bytes + b);
        }
      }
      for (size_t k = 0; k < sources.size(); k += 2) {
        Source& a = sources[k];
        const Source& b = sources[std::min(k + 1, sources.size() - 1)];
        for (int j = 0; j < geometry.lane; ++j) {
          if (b.line != a.line && b.bytes[j] != kNone) {
            a.bytes[j] = static_cast<int16_t>(geometry.lane + b.bytes[j]);
          }
        }
        all.push_back({a.line, b.line, Vector::Control(a.bytes, geometry.lane)});
      }
    }
    first.push_back(static_cast<int>(all.size()));
  }
};

// A table that some items of a lane go through.
struct Mask {
  Pattern lanes;
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
    Pattern before, after;
    int first, count;  // of masks
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
        if (plan.flips[p] & 1) line.before.set(geometry, t);
        if (complement_at[plan.table_of[p]]) line.after.set(geometry, t);
        if (base >= 0) masks[mask_of(&masks, line.first, base)].lanes.set(geometry, t);
      }
      line.count = static_cast<int>(masks.size()) - line.first;
      lines.push_back(line);
    }
  }

  // What changes a vector of a line: without a look-up, with one, with any number of them.
  struct Flip {
    Vector::type mask;
    Flip(const ByteFinish&, const Line& line)
        : mask(Vector::exclusive_or(line.before.load(), line.after.load())) {}
    Vector::type operator()(Vector::type x) const { return Vector::exclusive_or(x, mask); }
  };
  struct Look {
    Vector::Table table;
    Vector::type lanes, before, after;
    Look(const ByteFinish& finish, const Line& line)
        : table(finish.bases.data() + finish.masks[line.first].table * kByteValues),
          lanes(finish.masks[line.first].lanes.load()),
          before(line.before.load()),
          after(line.after.load()) {}
    Vector::type operator()(Vector::type x) const {
      x = Vector::exclusive_or(x, before);
      return Vector::exclusive_or(Vector::select(lanes, Vector::lookup(table, x), x), after);
    }
  };
  struct LookOften {
    const ByteFinish& finish;
    const Line& line;
    LookOften(const ByteFinish& finish, const Line& line) : finish(finish), line(line) {}
    Vector::type operator()(Vector::type x) const {
      x = Vector::exclusive_or(x, line.before.load());
      auto y = x;
      for (int k = line.first; k < line.first + line.count; ++k) {
        const Mask& mask = finish.masks[k];
        const Vector::Table table(finish.bases.data() + mask.table * kByteValues);
        y = Vector::select(mask.lanes.load(), Vector::lookup(table, x), y);
      }
      return Vector::exclusive_or(y, line.after.load());
    }
  };
};

// Bytes to wider types: y = x ^ before, then each byte of the result is a look-up of its own, for each table
// (substitution and output stage in one) the line needs.
template <class Out, class V>  // V is Vector, where that has what it takes
struct TableFinish {
  static constexpr int n = sizeof(typename Out::Storage);
  struct Line {
    Pattern before;
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
        if (plan.flips[p] & 1) line.before.set(geometry, t);
        masks[mask_of(&masks, line.first, table)].lanes.set(geometry, t);
      }
      line.count = static_cast<int>(masks.size()) - line.first;
      lines.push_back(line);
    }
  }

  // Of a shuffled line of `bytes` bytes, a multiple of a vector.
  void line(int o, const char* from, int64_t bytes, char* to) const {
    const Line& line = lines[o];
    const auto before = line.before.load();
    for (int64_t x = 0; x < bytes; x += V::bytes, to += n * V::bytes) {
      const auto in = V::template spread<n>(V::exclusive_or(V::load(from + x), before));
      typename V::type out[n];
      for (int k = 0; k < line.count; ++k) {
        const Mask& mask = masks[line.first + k];
        const auto lanes = V::template spread<n>(mask.lanes.load());
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
  const Plan& plan;
  IntegerRows<Out> rows;
  int full;
  std::vector<int> positions;  // [lines][full]; 0 for items not in use

  ItemFinish(const Geometry& geometry, const Plan& plan)
      : plan(plan), rows(plan), full(geometry.full), positions(geometry.lines * geometry.full) {
    for (int o = 0; o < geometry.lines; ++o) {
      for (int t = 0; t < geometry.lane_items; ++t) positions[o * full + t] = geometry.position(o, t);
    }
  }

  // Of a shuffled line of `bytes` bytes, a multiple of a vector.
  void line(int o, const char* from, int64_t bytes, char* to) const {
    const auto* in = reinterpret_cast<const typename In::Storage*>(from);
    auto* out = reinterpret_cast<typename Out::Storage*>(to);
    const int64_t lanes = bytes / static_cast<int64_t>(full * sizeof *in);
    for (int t = 0; t < full; ++t) {
      const int p = positions[o * full + t];
      if constexpr (kInteger<In>) {
        const typename Out::Storage* row = rows.row(p);
        const int top = rows.last_value();
        for (int64_t k = t; k < lanes * full; k += full) out[k] = row[std::min(In::load(in[k]), top)];
      } else {
        for (int64_t k = t; k < lanes * full; k += full) {
          out[k] = transform_float<In, Out>(plan, p, p % plan.channels, in[k]);
        }
      }
    }
  }
};

// Where the pieces of a row of pixels are, in a job.
struct Slots {
  const Geometry& geometry;
  int64_t row_items;
  int64_t used;       // items of a piece that are written
  int64_t held;       // items that a piece has room for
  int64_t row_slots;  // pieces across a row of blocks
  int pieces;         // of a vector

  Slots(const Geometry& geometry, const Job& job, int item_bytes) : geometry(geometry) {
    row_items = geometry.planar ? job.w : job.w * geometry.channels;
    // Lanes that follow each other without gaps make one piece.
    const bool whole = geometry.segments == 1 && geometry.lane_items == geometry.full &&
                       row_items * item_bytes >= Vector::bytes;
    pieces = whole ? 1 : Vector::bytes / geometry.lane;
    held = Vector::bytes / pieces / item_bytes;
    used = whole ? held : std::min<int64_t>(geometry.lane_items, row_items);
    row_slots = geometry.segments == 1 ? (row_items + used - 1) / used : job.w / geometry.m;
  }

  // Whether each slot has all the items it has room for.
  bool dense() const { return used == held; }

  // The first item of a slot in its row of pixels; the last slot overlaps rather than being short.
  int64_t start(int64_t slot) const {
    return geometry.segments == 1 ? std::min(slot * used, row_items - used) : slot * geometry.items;
  }

  // One past the last item of the slots before `slot`.
  int64_t end(int64_t slot) const {
    return start(slot - 1) + (geometry.segments == 1 ? used : geometry.items);
  }
};

// Slots [slot, slot + slots) of a row of blocks.
struct Run {
  char* out;  // the row of blocks
  int64_t slot, slots;
};

// Consecutive runs, as many slots in each, and where each slot begins in the first line.
struct Chunk {
  std::vector<Run> runs;
  std::vector<const char*> in;
  std::vector<char*> out;
  std::vector<const char*> ahead;  // every cache line of the input
  int64_t slots = 0, lines = 0;    // how many of `in` and `out`, and of `ahead`, count

  // Takes `count` slots from slot `done` of the rows of blocks from `first` on.
  void fill(const Job& job, const Slots& at, int in_bytes, int out_bytes, int64_t first, int64_t done,
            int64_t count) {
    const int64_t most_lines = (at.row_items * in_bytes / kCacheLine + 2) * count;
    if (static_cast<int64_t>(in.size()) < count + at.pieces) {
      in.resize(count + at.pieces);
      out.resize(count + at.pieces);
    }
    if (static_cast<int64_t>(ahead.size()) < most_lines) ahead.resize(most_lines);
    runs.clear();
    slots = lines = 0;
    const int64_t block_rows = job.h / job.plan.block_size, r = first + done / at.row_slots;
    const int64_t in_row = job.plan.block_size * job.in_stride[2] * in_bytes;
    const int64_t out_row = job.plan.block_size * job.out_stride[2] * out_bytes;
    int64_t image = r / block_rows, row = r % block_rows, slot = done % at.row_slots;
    while (slots < count) {
      const char* from =
          static_cast<const char*>(job.in) + image * job.in_stride[0] * in_bytes + row * in_row;
      char* to = static_cast<char*>(job.out) + image * job.out_stride[0] * out_bytes + row * out_row;
      const int64_t here = std::min(at.row_slots - slot, count - slots);
      const int64_t start = at.start(slot) * in_bytes, bytes = at.end(slot + here) * in_bytes - start;
      for (int64_t x = 0; x < bytes; x += kCacheLine) ahead[lines++] = from + start + x;
      for (int64_t k = 0; k < here; ++k) {
        const int64_t x = at.start(slot + k);
        in[slots + k] = from + x * in_bytes;
        out[slots + k] = to + x * out_bytes;
      }
      runs.push_back({to, slot, here});
      slots += here;
      slot = 0;
      if (++row == block_rows) row = 0, ++image;
    }
    while (slots % at.pieces) {  // a vector whose last pieces are the same
      in[slots] = in[slots - 1];
      out[slots] = out[slots - 1];
      ++slots;
    }
  }
};

// Past the caches, whole cache lines where they are.
void stream_bytes(char* to, const char* from, int64_t bytes) {
  const int64_t head = std::min<int64_t>(-reinterpret_cast<uintptr_t>(to) & (kCacheLine - 1), bytes);
  std::memcpy(to, from, head);
  int64_t k = head;
  for (; k + kCacheLine <= bytes; k += kCacheLine) {
    for (int v = 0; v < kCacheLine; v += Vector::bytes) {
      Vector::stream(to + k + v, Vector::load(from + k + v));
    }
  }
  std::memcpy(to + k, from + k, bytes - k);
}

// Finished bytes that wait in a stage to be written past the caches, a share at a time between other work:
// all at once they would fill the queues to memory, and the other work would wait.
class Outbox {
 public:
  void clear() {
    pieces_.clear();
    first_ = 0;
  }

  // What follows the piece before, in memory and in the stage, becomes part of it.
  void add(char* to, const char* from, int64_t bytes) {
    if (!pieces_.empty() && pieces_.back().to + pieces_.back().bytes == to) {
      pieces_.back().bytes += bytes;
    } else {
      pieces_.push_back({to, from, bytes});
    }
  }

  // Writes about `bytes` bytes, or what there is.
  void write(int64_t bytes) {
    while (bytes > 0 && first_ < pieces_.size()) {
      Piece& piece = pieces_[first_];
      const int64_t past = (reinterpret_cast<uintptr_t>(piece.to) + bytes) & (kCacheLine - 1);
      const int64_t n = std::min(bytes + (kCacheLine - past), piece.bytes);
      stream_bytes(piece.to, piece.from, n);
      piece = {piece.to + n, piece.from + n, piece.bytes - n};
      if (piece.bytes == 0) ++first_;
      bytes -= n;
    }
  }

 private:
  struct Piece {
    char* to;
    const char* from;
    int64_t bytes;
  };
  std::vector<Piece> pieces_;
  size_t first_ = 0;  // not written yet
};

// Where a chunk's output is put together, as it lies in memory: rows of pixels in the order of memory,
// without gaps. The next chunk has mostly the same shape, for which all is in place.
struct Stage {
  char* memory;
  int64_t runs, run_bytes, first;  // of the chunk; the first slot
  std::vector<char*> slots;
  std::vector<int64_t> lines;  // bytes to each line
};

// What a thread works in; kept for its next call.
struct Workspace {
  Chunk now, next;
  Stage stage, other_stage;     // of the chunk in work; of the one before, which is being written
  Outbox outbox, other_outbox;  // likewise
  std::vector<int64_t> in_lines, out_lines;  // bytes from a row of blocks to each line
  std::vector<char> memory;

  // At least `bytes` bytes that begin a cache line.
  char* room(int64_t bytes) {
    if (static_cast<int64_t>(memory.size()) < bytes + kCacheLine) memory.resize(bytes + kCacheLine);
    return memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & (kCacheLine - 1));
  }
};

// Where the vectors of an output line go: to a buffer, or to their slots.
struct Store {
  char* to;
  template <int pieces>
  void put(int64_t k, Vector::type x) const {
    Vector::store(to + k * Vector::bytes, x);
  }
};
struct Put {
  char* const* to;
  int64_t offset;
  template <int pieces>
  void put(int64_t k, Vector::type x) const {
    if constexpr (pieces == 1) {
      Vector::store(to[k] + offset, x);
    } else {
      Vector::store(to[2 * k] + offset, to[2 * k + 1] + offset, x);
    }
  }
};

// For lines that are only moved: those of other types than bytes.
struct Keep {
  Vector::type operator()(Vector::type x) const { return x; }
};

// One output line of `vectors` vectors, out of input lines that lie `offsets` bytes from the slots in `in`.
// `count` shuffles, or any number if it is 0. A Change is made here, and a Place comes by value, so that both
// stay in registers: stores of bytes may change whatever is referred to.
template <int pieces, int count, class Change, class Place, class... From>
void shuffle_line(const char* const* in, const int64_t* offsets, int64_t vectors,
                  const Shuffles::Shuffle* shuffle, const Shuffles::Shuffle* end, const Place place,
                  const From&... from) {
  const Change change{from...};
  int64_t k = 0;
  auto step = [&](auto unroll) __attribute__((always_inline)) {
    constexpr int n = decltype(unroll)::value;
    const char* at[n * pieces];
    for (int u = 0; u < n * pieces; ++u) at[u] = in[k * pieces + u];
    auto load = [&](int u, int64_t offset) __attribute__((always_inline)) {
      if constexpr (pieces == 1) {
        return Vector::load(at[u] + offset);
      } else {
        return Vector::load(at[2 * u] + offset, at[2 * u + 1] + offset);
      }
    };
    typename Vector::type sum[n];
    auto add = [&](const Shuffles::Shuffle& s, bool first) __attribute__((always_inline)) {
      const int64_t a = offsets[s.a], b = offsets[s.b];
      for (int u = 0; u < n; ++u) {
        const auto y = Vector::shuffle(load(u, a), load(u, b), s.control);
        sum[u] = first ? y : Vector::either(sum[u], y);
      }
    };
    add(*shuffle, true);
    for (const auto* s = shuffle + 1; s != (count ? shuffle + count : end); ++s) add(*s, false);
    for (int u = 0; u < n; ++u) place.template put<pieces>(k + u, change(sum[u]));
    k += n;
  };
  if constexpr (count == 0) {  // perhaps many shuffles, each of which has a start
    while (vectors - k >= 2 * Vector::unroll) step(std::integral_constant<int, 2 * Vector::unroll>());
  }
  while (vectors - k >= Vector::unroll) step(std::integral_constant<int, Vector::unroll>());
  if (vectors - k >= 2) step(std::integral_constant<int, 2>());
  if (vectors - k >= 1) step(std::integral_constant<int, 1>());
}

template <class In, class Out>
class LineKernel : public Kernel {
  static constexpr bool kBytes = std::is_same_v<In, U8> && std::is_same_v<Out, U8>;
  static constexpr bool kTables = std::is_same_v<In, U8> && !kBytes && Vector::wide_lookups;
  static constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  using Finish =
      std::conditional_t<kBytes, ByteFinish,
                         std::conditional_t<kTables, TableFinish<Out, Vector>, ItemFinish<In, Out>>>;

 public:
  LineKernel(const Plan& plan, bool planar, int lane)
      : geometry_(plan, in_bytes, planar, lane),
        shuffles_(geometry_, plan, in_bytes),
        finish_(geometry_, plan),
        portable_(make_portable(plan, In::type, Out::type)) {}

  void run(const Job& job, int64_t first, int64_t last) const override {
    const Slots at(geometry_, job, in_bytes);
    // Loads reach beyond a row of pixels where a slot has fewer items than it has room for. Rows of blocks
    // from where that leaves the images are left to the portable kernel.
    const int64_t beyond = at.start(at.row_slots - 1) + at.held - at.row_items;
    const int64_t end = beyond > 0 ? inside(job, first, last, beyond) : last;
    if (end > first) run_lines(job, at, first, end);
    if (end < last) portable_->run(job, end, last);
  }

 private:
  struct Buffers {
    char* shuffled;  // an output line, and with its values
    char* finished;
  };
  struct Target {
    char* const* slots;
    const int64_t* lines;  // bytes to each
  };

  // The first of the rows of blocks [first, last) that is within `beyond` items of the end of the images, or
  // `last`.
  static int64_t inside(const Job& job, int64_t first, int64_t last, int64_t beyond) {
    auto reach = [&](int64_t n, int64_t h) {  // one past the last item of so many images and rows of pixels
      const int64_t sizes[4] = {n, job.plan.channels, h, job.w};
      int64_t end = 1;
      for (int k = 0; k < 4; ++k) end += std::max<int64_t>(job.in_stride[k], 0) * (sizes[k] - 1);
      return end;
    };
    const int64_t m = job.plan.block_size, block_rows = job.h / m, end = reach(job.n, job.h);
    for (int64_t r = first; r < last; ++r) {
      if (reach(r / block_rows + 1, (r % block_rows + 1) * m) + beyond > end) return r;
    }
    return last;
  }

  void run_lines(const Job& job, const Slots& at, int64_t first, int64_t last) const {
    static thread_local Workspace kept;
    Workspace& work = kept;
    const int64_t total = (last - first) * at.row_slots;
    const int64_t fits =
        kChunkBytes * 2 * in_bytes / (in_bytes + out_bytes) / (geometry_.lines * Vector::bytes);
    const int64_t capacity = std::clamp(fits, kLeastVectors, kMostVectors) * at.pieces;
    // Whole rows of blocks where several fit, else a part of one.
    const bool rows = at.row_slots <= capacity;
    const int64_t most = rows ? capacity / at.row_slots * at.row_slots : capacity;
    auto fill = [&](Chunk* chunk, int64_t done) {
      const int64_t rest = rows ? total - done : at.row_slots - done % at.row_slots;
      const int64_t count = std::min({most, rest, total - done});
      chunk->fill(job, at, in_bytes, out_bytes, first, done, count);
      return count;
    };
    const bool stream =
        Vector::streams && job.n * job.h * job.w * job.plan.channels * out_bytes > kStreamBytes;
    work.in_lines.clear();
    work.out_lines.clear();
    each_line([&](int channel, int row, int item) {
      work.in_lines.push_back((channel * job.in_stride[1] + row * job.in_stride[2] + item) * in_bytes);
      work.out_lines.push_back((channel * job.out_stride[1] + row * job.out_stride[2] + item) * out_bytes);
    });
    const int64_t line_bytes = (most + at.pieces) * at.held * std::max(in_bytes, out_bytes) + kCacheLine;
    const int64_t stage_bytes = stream ? geometry_.lines * most * at.held * out_bytes + kCacheLine : 0;
    Buffers buffers;
    buffers.shuffled = work.room(2 * line_bytes + 2 * stage_bytes);
    buffers.finished = kBytes ? buffers.shuffled : buffers.shuffled + line_bytes;
    work.stage.memory = buffers.shuffled + 2 * line_bytes;
    work.other_stage.memory = work.stage.memory + stage_bytes;
    work.stage.runs = work.other_stage.runs = 0;
    work.other_outbox.clear();
    int64_t taken = fill(&work.now, 0);
    for (int64_t done = 0; done < total;) {
      done += taken;
      const bool more = done < total;
      if (more) taken = fill(&work.next, done);
      if (stream) stage_chunk(job, at, &work);
      const Target to = stream ? Target{work.stage.slots.data(), work.stage.lines.data()}
                               : Target{work.now.out.data(), work.out_lines.data()};
      for (int o = 0; o < geometry_.lines; ++o) {
        if constexpr (kHalves) {
          if (at.pieces == 2) make_line<2>(o, at, buffers, to, work);
        }
        if (at.pieces == 1) make_line<1>(o, at, buffers, to, work);
        if (!stream) continue;
        // Meanwhile the chunk before goes to memory, and the next one comes into the second-level cache.
        work.other_outbox.write(work.now.slots * at.used * out_bytes);
        const int64_t offset = work.in_lines[o];
        for (int64_t k = 0; more && k < work.next.lines; ++k) Vector::prefetch(work.next.ahead[k] + offset);
      }
      if (!stream) {
        std::swap(work.now, work.next);
        continue;
      }
      work.other_outbox.write(INT64_MAX / 2);
      std::swap(work.now, work.next);
      std::swap(work.stage, work.other_stage);
      std::swap(work.outbox, work.other_outbox);
    }
    if (stream) {
      work.other_outbox.write(INT64_MAX / 2);
      Vector::fence();
    }
  }

  // Calls f(channel, row, item) for each line: where it begins in a block, from the block's first pixel.
  template <class F>
  void each_line(F&& f) const {
    for (int channel = 0; channel < (geometry_.planar ? geometry_.channels : 1); ++channel) {
      for (int row = 0; row < geometry_.m; ++row) {
        for (int s = 0; s < geometry_.segments; ++s) f(channel, row, geometry_.segment_start(s));
      }
    }
  }

  // One output line of a chunk.
  template <int pieces>
  void make_line(int o, const Slots& at, const Buffers& buffers, const Target& to,
                 const Workspace& work) const {
    if constexpr (kBytes) {
      const int lookups = finish_.lines[o].count;
      const auto make = lookups == 0   ? &LineKernel::make_bytes<pieces, ByteFinish::Flip>
                        : lookups == 1 ? &LineKernel::make_bytes<pieces, ByteFinish::Look>
                                       : &LineKernel::make_bytes<pieces, ByteFinish::LookOften>;
      (this->*make)(o, at, buffers, to, work);
      if (at.dense()) return;
    } else {
      const int64_t vectors = work.now.slots / pieces;
      shuffle_line<pieces, 0, Keep>(work.now.in.data(), work.in_lines.data(), vectors, shuffles_.begin(o),
                                    shuffles_.begin(o + 1), Store{buffers.shuffled});
      finish_.line(o, buffers.shuffled, vectors * Vector::bytes, buffers.finished);
    }
    scatter_line(at, work.now, to.slots, to.lines[o], buffers.finished);
  }

  // The same of bytes: to its slots where these are dense, else finished, in a buffer.
  template <int pieces, class Change>
  void make_bytes(int o, const Slots& at, const Buffers& buffers, const Target& to,
                  const Workspace& work) const {
    const Shuffles::Shuffle *shuffle = shuffles_.begin(o), *end = shuffles_.begin(o + 1);
    auto make = [&](auto count, auto place) {
      shuffle_line<pieces, decltype(count)::value, Change>(work.now.in.data(), work.in_lines.data(),
                                                           work.now.slots / pieces, shuffle, end, place,
                                                           finish_, finish_.lines[o]);
    };
    if (!at.dense()) return make(std::integral_constant<int, 0>(), Store{buffers.finished});
    const Put place{to.slots, to.lines[o]};
    switch (end - shuffle) {
      case 1:
        return make(std::integral_constant<int, 1>(), place);
      case 2:
        return make(std::integral_constant<int, 2>(), place);
      case 3:
        return make(std::integral_constant<int, 3>(), place);
      case 4:
        return make(std::integral_constant<int, 4>(), place);
      default:
        return make(std::integral_constant<int, 0>(), place);
    }
  }

  // A finished line to its slots.
  void scatter_line(const Slots& at, const Chunk& chunk, char* const* to, int64_t offset,
                    const char* from) const {
    constexpr int64_t kMost = Vector::bytes / in_bytes * out_bytes;
    const int64_t size = at.held * out_bytes;
    for (const Run& run : chunk.runs) {
      const int64_t end = at.end(run.slot + run.slots);
      for (int64_t k = run.slot; k < run.slot + run.slots; ++k, ++to, from += size) {
        // What a slot writes beyond its items the next ones overwrite, but for the last.
        if (at.start(k) + at.held > end) {
          std::memcpy(*to + offset, from, at.used * out_bytes);
        } else if (size == kMost) {
          std::memcpy(*to + offset, from, kMost);
        } else {
          std::memcpy(*to + offset, from, kMost / 2);
        }
      }
    }
  }

  // Makes the stage one for the chunk in work, and lists where it belongs in memory.
  void stage_chunk(const Job& job, const Slots& at, Workspace* work) const {
    const Chunk& now = work->now;
    Stage& stage = work->stage;
    const int64_t first = now.runs[0].slot, run_slots = now.runs[0].slots, start = at.start(first);
    const int64_t runs = now.runs.size(), m = geometry_.m;
    const int64_t run_bytes = (at.end(first + run_slots) - start) * out_bytes;
    if (stage.runs != runs || stage.run_bytes != run_bytes || stage.first != first) {
      stage.runs = runs;
      stage.run_bytes = run_bytes;
      stage.first = first;
      stage.slots.clear();
      for (int64_t r = 0; r < runs; ++r) {
        for (int64_t k = first; k < first + run_slots; ++k) {
          stage.slots.push_back(stage.memory + r * m * run_bytes + (at.start(k) - start) * out_bytes);
        }
      }
      stage.slots.resize(now.slots, stage.slots.back());
      stage.lines.clear();
      each_line([&](int channel, int row, int item) {
        stage.lines.push_back((channel * runs * m + row) * run_bytes + item * out_bytes);
      });
    }
    const int64_t row_bytes = job.out_stride[2] * out_bytes;
    const bool gapless = row_bytes == run_bytes;
    const char* from = stage.memory;
    work->outbox.clear();
    for (int channel = 0; channel < (geometry_.planar ? geometry_.channels : 1); ++channel) {
      for (const Run& run : now.runs) {
        char* const to = run.out + (start + channel * job.out_stride[1]) * out_bytes;
        for (int row = 0; row < (gapless ? 1 : m); ++row) {
          const int64_t bytes = gapless ? m * run_bytes : run_bytes;
          work->outbox.add(to + row * row_bytes, from, bytes);
          from += bytes;
        }
      }
    }
  }

  Geometry geometry_;
  Shuffles shuffles_;
  Finish finish_;
  std::unique_ptr<const Kernel> portable_;
};

// Level::make for `Vector`.
std::unique_ptr<const Kernel> make_lines(const Plan& plan, Type in, Type out, const Rows& rows) {
  if (rows.layout == Layout::any) return make_portable(plan, in, out);
  std::unique_ptr<const Kernel> kernel;
  with_types(in, out, [&](auto in_type, auto out_type) {
    kernel = std::make_unique<LineKernel<decltype(in_type), decltype(out_type)>>(
        plan, rows.layout == Layout::planar, rows.narrow ? Vector::narrow_lane : Vector::lane);
  });
  return kernel;
}

}  // namespace
}  // namespace blockenc
