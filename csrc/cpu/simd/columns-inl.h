// The vector kernel, the same source for every instruction set: blocks to columns, and columns to blocks.
//
// A *column* holds the values that one position of a block has in many blocks. Once a group of blocks lies in
// columns, shuffling the blocks is only reading the columns in another order, and all values of a column have
// the same flips and the same substitution table, whatever M, the layout and the steps are. So the kernel
// transposes a group of blocks to columns in scratch memory, which fits in the first- or second-level cache,
// changes the values (value_maps-inl.h), and transposes the columns back to blocks, in the order of the
// output (where the blocks lie: row_tiling-inl.h). Each byte is loaded from the input once, and stored in the
// output once.
//
// One transposition takes as many vectors of one line (BlockLayout) as that has columns, and makes as many
// columns, of one vector each. Together the lanes of these vectors hold all blocks of a group; or a part of
// the group, if the values are wider than those of the other side. For vectors a and b, interleave_lower(a,
// b) and interleave_upper(a, b) interleave the values of half a lane each. Done log2(columns) times, that
// exchanges the number of a value in its lane with the number of its vector, as in the well-known
// transposition of a matrix of 16 x 16 bytes. The same function goes from columns to lines.
//
// Each file of an instruction set includes this one after it has chosen its target and defined `Vector`:
//   type, bytes                 the vector; its size
//   max_part_bytes              the most that load_parts<n> takes from one place: kLane or 2 * kLane
//   load, store                 of a whole vector, at any address
//   load_parts<n>               the same in n equal parts, at parts[0] + offset, ..., parts[n - 1] + offset
//   store_parts<n>
//   has_stream, stream, fence   whether there are stores past the caches; one, aligned; what orders them
//   prefetch                    a cache line, into the second-level cache
//   broadcast(lane)             16 bytes to every lane
//   shuffle_bytes(x, from)      byte j of a lane is byte from[j] of that lane of x
//   interleave_lower<size>      items of `size` bytes of the lower halves of the lanes of a and b in turn,
//   interleave_upper<size>      or of the upper halves
//   exclusive_or
//   Table, lookup(table, x)     256 bytes, and a table lookup of every byte of x in them
//   has_fast_lookup             whether it is worth while to look up every byte of a wider result; if so also
//   permute(x, from)            byte j of the vector is byte from[j] of it
// Everything is in an unnamed namespace, since each of these files compiles it for its own instruction set.

#pragma once

#include "../kernels.h"
#include "row_tiling-inl.h"
#include "value_maps-inl.h"

namespace blockenc {
namespace {

// Transposes n vectors, each lane by itself. A lane has n runs of equal length: item b of run a of vector k
// becomes item b * n + k of vector a.
template <class V, int size, int n, int half = n / 2, class T>
inline __attribute__((always_inline)) void transpose(T (&x)[n]) {
  if constexpr (half > 0) {
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) {
      if (k & half) continue;
      const auto low = V::template interleave_lower<size>(x[k], x[k + half]);
      x[k + half] = V::template interleave_upper<size>(x[k], x[k + half]);
      x[k] = low;
    }
    transpose<V, size, n, half / 2>(x);
  }
}

// An order of the items in a lane, for Vector::shuffle_bytes: item t comes from item from(t), for t below
// `items`.
struct LaneOrder {
  uint8_t bytes[kLane] = {};

  template <class From>
  LaneOrder(int item, int items, From&& from) {
    for (int byte = 0; byte < kLane && byte < items * item; ++byte) {
      bytes[byte] = static_cast<uint8_t>(from(byte / item) * item + byte % item);
    }
  }
  Vector::type load() const { return Vector::broadcast(bytes); }
};

// The memory that a thread works in, kept for its next call.
struct Workspace {
  Chunk now, next;
  StagingBuffer staging;       // of the chunk in work
  StagingBuffer last_staging;  // of the chunk before, which is being written to the output
  BlockRowOffsets in, out;
  std::vector<char> memory;

  // At least `bytes` bytes from the beginning of a cache line on.
  char* aligned_room(int64_t bytes) {
    char* const first = room(&memory, bytes + kCacheLine);
    return first + (-reinterpret_cast<uintptr_t>(first) & (kCacheLine - 1));
  }
};

// Whether integers are looked up a vector at a time. All others are looked up one by one, for which columns
// are of no use.
template <class In, class Out>
constexpr bool kByteLookups = std::is_same_v<In, U8> && std::is_same_v<Out, U8>;
template <class In, class Out>
constexpr bool kWideLookups =
    std::is_same_v<In, U8> && sizeof(typename Out::Storage) > 1 && Vector::has_fast_lookup;

template <class In, class Out>
class ColumnKernel : public Kernel {
  static constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  static constexpr int kGroup = group_blocks(in_bytes, out_bytes);
  static constexpr int in_vectors = kGroup * in_bytes / Vector::bytes;  // of a column
  static constexpr int out_vectors = kGroup * out_bytes / Vector::bytes;
  using Map =
      std::conditional_t<kByteLookups<In, Out>, ByteMap,
                         std::conditional_t<kWideLookups<In, Out>, WideMap<Out, Vector>, FloatMap<In, Out>>>;

 public:
  ColumnKernel(const Plan& plan, bool planar)
      : in_(plan, in_bytes, planar),
        out_(plan, out_bytes, planar),
        map_(in_, out_, plan),
        to_columns_order_(
            in_bytes, in_.columns * in_.blocks,
            [&](int t) { return t % in_.blocks * in_.items + std::min(t / in_.blocks, in_.items - 1); }),
        from_columns_order_(out_bytes, out_.columns * out_.blocks,
                            [&](int t) { return t % out_.blocks * out_.columns + t / out_.blocks; }),
        compact_order_(out_bytes, out_.segments > 1 ? 0 : out_.blocks * out_.items,
                       [&](int t) { return t / out_.items * out_.columns + t % out_.items; }),
        portable_(make_portable(plan, In::type, Out::type)) {}

  void run(const Job& job, int64_t first, int64_t last) const override {
    const RowTiling tiling(in_, out_, job.w / in_.m);
    // The last lane of a pixel row is loaded whole, also where fewer items are left. Block rows for which
    // that would read past the end of the images are left to the portable kernel.
    const int64_t last_lane = (tiling.used - 1) / in_.blocks * in_.blocks;  // its first block
    const int64_t beyond = in_.segments > 1 ? 0 : kLane / in_bytes - (tiling.used - last_lane) * in_.items;
    const int64_t end = beyond > 0 ? first_near_end(job, first, last, beyond) : last;
    if (end > first) run_chunks(job, tiling, first, end);
    if (end < last) portable_->run(job, end, last);
  }

 private:
  // The first of the block rows [first, last) that has fewer than `beyond` items between its end and the end
  // of the images; `last` if there is none.
  static int64_t first_near_end(const Job& job, int64_t first, int64_t last, int64_t beyond) {
    // One past the last item of n images of which the last has h pixel rows.
    auto end_of = [&](int64_t n, int64_t h) {
      const int64_t sizes[4] = {n, job.plan.channels, h, job.w};
      int64_t end = 1;
      for (int k = 0; k < 4; ++k) end += std::max<int64_t>(job.in_stride[k], 0) * (sizes[k] - 1);
      return end;
    };
    const int64_t m = job.plan.block_size, block_rows = job.h / m, end = end_of(job.n, job.h);
    for (int64_t r = first; r < last; ++r) {
      if (end_of(r / block_rows + 1, (r % block_rows + 1) * m) + beyond > end) return r;
    }
    return last;
  }

  // How many tiles a chunk has: those of whole block rows, if they fit, else those of a part of one. Of the
  // numbers of block rows between the limits it is the first that fills the last group well enough, else the
  // one that fills it best. Well enough is less with a staging buffer, where small chunks matter more.
  int64_t chunk_tiles(const RowTiling& tiling, int64_t group, bool direct) const {
    const int64_t group_bytes =
        int64_t{kGroup} * in_.m * in_.m * in_.channels * std::max(in_bytes, out_bytes);
    const int64_t min = (direct ? kMinChunkBytes : kMinStagedChunkBytes) / group_bytes * group;
    const int64_t max = std::max<int64_t>(kMaxChunkBytes / group_bytes, 1) * group;
    const double enough = direct ? 0.97 : 0.85;
    int64_t best = max;
    double best_share = 0;
    for (int64_t rows = min / tiling.row_tiles + 1; rows * tiling.row_tiles <= max && best_share < enough;
         ++rows) {
      const int64_t tiles = rows * tiling.row_tiles;
      const double share = static_cast<double>(tiles) / ((tiles + group - 1) / group * group);
      if (share > best_share) best = tiles, best_share = share;
    }
    return best;
  }

  // The two passes over a group of blocks, compiled for the numbers of columns and parts of a job.
  struct Passes {
    void (ColumnKernel::*to_columns)(const char* const*, const int64_t*, Scratch, Traffic) const;
    void (ColumnKernel::*from_columns)(Scratch, char* const*, const int64_t*, Traffic) const;
  };

  void run_chunks(const Job& job, const RowTiling& tiling, int64_t first, int64_t last) const {
    static thread_local Workspace kept;
    Workspace& work = kept;
    const bool stream =
        Vector::has_stream && job.n * job.h * job.w * job.plan.channels * out_bytes > kMinStreamedBytes;
    const bool direct = !stream && StagingBuffer::padding(out_, tiling) == 0;
    const Chunking chunking{job,    in_,   out_, tiling, work.in, work.out, first, kGroup / tiling.blocks,
                            stream, direct};
    const int64_t total = (last - first) * tiling.row_tiles;
    const int64_t max = chunk_tiles(tiling, chunking.group, direct);
    const bool whole_rows = max % tiling.row_tiles == 0;
    auto fill = [&](Chunk* chunk, int64_t done) {
      const int64_t rest = whole_rows ? total - done : tiling.row_tiles - done % tiling.row_tiles;
      const int64_t count = std::min({max, rest, total - done});
      chunk->fill(chunking, done, count);
      return count;
    };
    work.in.set(in_, tiling, job.in_stride, false);
    work.out.set(out_, tiling, job.out_stride, true);
    const int64_t column_bytes = int64_t{kGroup} * in_bytes;
    const int64_t group_bytes = (in_.lines * in_.columns + map_.columns) * column_bytes;
    const int64_t groups = std::clamp<int64_t>(kScratchBytes / group_bytes, 1, kMaxGroups);
    // Every pixel row of every run is padded; a chunk has at most as many runs as tiles.
    const int64_t staging_rows = int64_t{in_.m} * (out_.planar ? out_.channels : 1) * max;
    const int64_t staging_row = tiling.used * out_.row_bytes() + StagingBuffer::padding(out_, tiling);
    const int64_t staging_bytes = (direct ? 0 : staging_rows * staging_row) + 2 * kCacheLine;
    const Scratch scratch{work.aligned_room(groups * group_bytes + 2 * staging_bytes), group_bytes, groups};
    work.staging.memory = scratch.memory + groups * group_bytes;
    work.last_staging.memory = work.staging.memory + staging_bytes / kCacheLine * kCacheLine;
    work.staging.reset();
    work.last_staging.reset();
    work.last_staging.writes.clear();
    const Passes passes{choose<in_bytes>(in_.columns, tiling.part_lanes(in_),
                                         [](auto n, auto parts) {
                                           return &ColumnKernel::template to_columns<n.value, parts.value>;
                                         }),
                        choose<out_bytes>(out_.columns, tiling.part_lanes(out_), [](auto n, auto parts) {
                          return &ColumnKernel::template from_columns<n.value, parts.value>;
                        })};
    int64_t taken = fill(&work.now, 0);
    for (int64_t done = 0; done < total;) {
      done += taken;
      work.next.prefetches.clear();
      if (done < total) taken = fill(&work.next, done);
      if (!direct) work.staging.set(work.now, chunking);
      transform_chunk(chunking, passes, scratch, &work);
      std::swap(work.now, work.next);
      std::swap(work.staging, work.last_staging);
    }
    if (!direct) work.last_staging.writes.finish();
    if (stream) Vector::fence();
  }

  void transform_chunk(const Chunking& chunking, const Passes& passes, const Scratch& scratch,
                       Workspace* work) const {
    const Chunk& now = work->now;
    const int64_t groups = now.tiles / chunking.group;
    const int64_t in_parts = chunking.group * work->in.tile_parts,
                  out_parts = chunking.group * work->out.tile_parts;
    char* const* to = chunking.direct ? now.out.data() : work->staging.parts.data();
    const int64_t* lines = chunking.direct ? work->out.lines.data() : work->staging.lines.data();
    const Traffic traffic{work->next.prefetches, work->last_staging.writes};
    const int64_t count = (groups + scratch.groups - 1) / scratch.groups;
    traffic.prefetches.set_steps(count * (in_.lines + out_.lines));
    traffic.writes.set_steps(count * (in_.lines + out_.lines));
    for (int64_t k = 0; k < count; ++k) {
      const int64_t g = k * scratch.groups;
      const Scratch some{scratch.memory, scratch.bytes, std::min(scratch.groups, groups - g)};
      (this->*passes.to_columns)(now.in.data() + g * in_parts, work->in.lines.data(), some, traffic);
      map_.prepare(some);
      (this->*passes.from_columns)(some, to + g * out_parts, lines, traffic);
    }
    traffic.writes.finish();
  }

  // Calls f(columns, parts of a vector) with constants for the values of a job.
  template <int item, class F>
  static auto choose(int columns, int part_lanes, F&& f) {
    constexpr int kLanes = Vector::bytes / kLane;
    auto parts = [&](auto n) {
      if constexpr (Vector::max_part_bytes > kLane) {
        if (part_lanes == 2) return f(n, std::integral_constant<int, kLanes / 2>());
      }
      return f(n, std::integral_constant<int, kLanes>());
    };
    if constexpr (item < 2) {
      if (columns == 16) return parts(std::integral_constant<int, 16>());
    }
    if constexpr (item < 4) {
      if (columns == 8) return parts(std::integral_constant<int, 8>());
    }
    if (columns == 4) return parts(std::integral_constant<int, 4>());
    if (columns == 2) return parts(std::integral_constant<int, 2>());
    return parts(std::integral_constant<int, 1>());
  }

  // From the input to columns. at: where the parts of the groups' tiles begin in their first lines.
  template <int n, int parts>
  void to_columns(const char* const* at, const int64_t* lines, const Scratch scratch,
                  const Traffic traffic) const {
    const auto order = to_columns_order_.load();
    const int count = in_.lines;
    for (int line = 0; line < count; ++line) {
      const int64_t offset = lines[line];
      char* to = scratch.memory + line * (n * in_vectors * Vector::bytes);
      const char* const* from = at;
      for (int64_t g = 0; g < scratch.groups; ++g, to += scratch.bytes) {
        for (int v = 0; v < in_vectors; ++v, from += n * parts) {
          typename Vector::type x[n];
#pragma GCC unroll 16
          for (int k = 0; k < n; ++k) {
            x[k] = Vector::load_parts<parts>(from + k * parts, offset);
            if (n * in_bytes < kLane) x[k] = Vector::shuffle_bytes(x[k], order);
          }
          transpose<Vector, in_bytes>(x);
#pragma GCC unroll 16
          for (int k = 0; k < n; ++k) Vector::store(to + (k * in_vectors + v) * Vector::bytes, x[k]);
        }
      }
      traffic.step();
    }
  }

  // From columns to the output, or to the staging buffer. What the loops need is passed and captured by
  // value: to the compiler a store of a byte may change anything that is referred to, which it would load
  // every time.
  template <int n, int parts>
  void from_columns(const Scratch scratch, char* const* at, const int64_t* lines,
                    const Traffic traffic) const {
    const auto order = from_columns_order_.load(), compact_order = compact_order_.load();
    const bool compacts = parts * kLane == Vector::bytes && !out_.dense();
    const int count = out_.lines;
    const auto read = map_.reader();
    for (int line = 0; line < count; ++line) {
      const int64_t offset = lines[line];
      const auto flip = map_.line_flip(line);
      char* const* to = at;
      const char* from = scratch.memory;
      for (int64_t g = 0; g < scratch.groups; ++g, from += scratch.bytes) {
        typename Vector::type x[out_vectors][n];
#pragma GCC unroll 16
        for (int k = 0; k < n; ++k) {
          typename Vector::type column[out_vectors];
          read(line * n + k, from, column);
          for (int v = 0; v < out_vectors; ++v) x[v][k] = column[v];
        }
        for (int v = 0; v < out_vectors; ++v, to += n * parts) {
          if (n * out_bytes < kLane) {
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) x[v][k] = Vector::shuffle_bytes(x[v][k], order);
          }
          transpose<Vector, out_bytes>(x[v]);
          if (compacts) {
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) x[v][k] = Vector::shuffle_bytes(x[v][k], compact_order);
          }
#pragma GCC unroll 16
          for (int k = 0; k < n; ++k) {
            Vector::store_parts<parts>(to + k * parts, offset, flip(x[v][k]));
          }
        }
      }
      traffic.step();
    }
  }

  BlockLayout in_, out_;
  Map map_;
  LaneOrder to_columns_order_;    // in a lane of a line: [blocks][items] to [columns][blocks]
  LaneOrder from_columns_order_;  // in a lane of a column: [blocks][columns] to [columns][blocks]
  LaneOrder compact_order_;       // in a lane of a line: [blocks][columns] to [blocks][items]
  std::unique_ptr<const Kernel> portable_;
};

}  // namespace
}  // namespace blockenc
