// The vector kernel, for every instruction set: blocks turned into columns, and columns into blocks.
//
// A *column* holds what one position of a block has in many blocks. Once a group of blocks lies in columns,
// shuffling blocks is reading columns in another order, and all items of a column have the same flips and
// the same table, whatever M, the layout and the steps. So a group is *spread* into columns, in scratch
// memory that fits in the first- or second-level cache, its values are changed, and it is *collected*, in
// the order of the output. Each byte is loaded from the input once and stored in the output once.
//
// Turning is done in *tiles*: `columns` vectors of a line, whose lanes are together all the blocks of a
// group (or of a part of it, where the other side has smaller items), become as many columns of a vector
// each. With two vectors a and b, low(a, b) and high(a, b) interleave halves of lanes; done log2(columns)
// times, they exchange the number of the item with the number of the vector (as in the transposition of a
// matrix of 16 x 16 bytes). The same turns columns into lines.
//
// Included by one file for each instruction set, after that has chosen its target and defined `Vector`:
//   bytes, most_piece           of a vector; of what gather may find in one place, kLane or 2 * kLane
//   load, store                 unaligned
//   gather<n>, scatter<n>       the same in n equal parts, at at[0] + offset, ..., at[n - 1] + offset
//   streams, stream, fence      whether there are stores past the caches; an aligned one; what orders them
//   prefetch                    asks for a cache line, into the second-level cache
//   repeat(lane)                16 bytes in each lane
//   within(x, from)             in each lane: byte from[j] of it
//   low<size>, high<size>       in each lane: the low (high) halves of a and b, items of `size` interleaved
//   exclusive_or
//   Table, lookup(table, x)     256 bytes, and a look-up of every byte of x in them
//   wide_lookups                whether looking up the bytes of wider results one by one pays; if so
//   permute(x, from)            byte from[j] of the vector
// Everything here is in an unnamed namespace: each file has its own, compiled for its instruction set.

#include "../kernels.h"
#include "chunks-inl.h"
#include "finish-inl.h"

namespace blockenc {
namespace {

// Exchanges the numbers of items in lanes and of vectors, both below n. Items of a lane are [n][lane / n]
// before, and [lane / n][n] after.
template <int size, int n, int half = n / 2>
inline __attribute__((always_inline)) void turn(Vector::type (&x)[n]) {
  if constexpr (half > 0) {
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) {
      if (k & half) continue;
      const auto low = Vector::low<size>(x[k], x[k + half]);
      x[k + half] = Vector::high<size>(x[k], x[k + half]);
      x[k] = low;
    }
    turn<size, n, half / 2>(x);
  }
}

// The order of bytes in a lane, for Vector::within: item t is item from(t), for each t below `items`.
struct LaneOrder {
  uint8_t bytes[kLane] = {};

  template <class From>
  LaneOrder(int item, int items, From&& from) {
    for (int byte = 0; byte < kLane && byte < items * item; ++byte) {
      bytes[byte] = static_cast<uint8_t>(from(byte / item) * item + byte % item);
    }
  }
  Vector::type load() const { return Vector::repeat(bytes); }
};

// What a thread works in; kept for its next call.
struct Workspace {
  Chunk now, next;
  Stage stage, other_stage;  // of the chunk in work; of the one before, which is being written
  Row in, out;
  std::vector<char> memory;

  // At least `bytes` bytes that begin a cache line.
  char* aligned_room(int64_t bytes) {
    char* const first = room(&memory, bytes + kCacheLine);
    return first + (-reinterpret_cast<uintptr_t>(first) & (kCacheLine - 1));
  }
};

// Integers that are looked up in vectors. Others are looked up one by one, which needs no columns.
template <class In, class Out>
constexpr bool kByteLookups = std::is_same_v<In, U8> && std::is_same_v<Out, U8>;
template <class In, class Out>
constexpr bool kWideLookups =
    std::is_same_v<In, U8> && sizeof(typename Out::Storage) > 1 && Vector::wide_lookups;

template <class In, class Out>
class ColumnKernel : public Kernel {
  static constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  static constexpr int kGroup = group_blocks(in_bytes, out_bytes);
  static constexpr int in_vectors = kGroup * in_bytes / Vector::bytes;  // of a column
  static constexpr int out_vectors = kGroup * out_bytes / Vector::bytes;
  using Finish = std::conditional_t<
      kByteLookups<In, Out>, ByteFinish,
      std::conditional_t<kWideLookups<In, Out>, TableFinish<Out, Vector>, FloatFinish<In, Out>>>;

 public:
  ColumnKernel(const Plan& plan, bool planar)
      : in_(plan, in_bytes, planar),
        out_(plan, out_bytes, planar),
        finish_(in_, out_, plan),
        spread_order_(
            in_bytes, in_.columns * in_.blocks,
            [&](int t) { return t % in_.blocks * in_.items + std::min(t / in_.blocks, in_.items - 1); }),
        collect_order_(out_bytes, out_.columns * out_.blocks,
                       [&](int t) { return t % out_.blocks * out_.columns + t / out_.blocks; }),
        close_order_(out_bytes, out_.segments > 1 ? 0 : out_.blocks * out_.items,
                     [&](int t) { return t / out_.items * out_.columns + t % out_.items; }),
        portable_(make_portable(plan, In::type, Out::type)) {}

  void run(const Job& job, int64_t first, int64_t last) const override {
    const Slots at(in_, out_, job.w / in_.m);
    // Loads reach beyond a row of pixels where its last lane has fewer items than it has room for. Rows of
    // blocks from where that leaves the images are left to the portable kernel.
    const int64_t last_lane = (at.used - 1) / in_.blocks * in_.blocks;
    const int64_t beyond = in_.segments > 1 ? 0 : kLane / in_bytes - (at.used - last_lane) * in_.items;
    const int64_t end = beyond > 0 ? inside(job, first, last, beyond) : last;
    if (end > first) run_chunks(job, at, first, end);
    if (end < last) portable_->run(job, end, last);
  }

 private:
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

  // Slots of a chunk: of whole rows of blocks where they fit, else of a part of one. Of the numbers of rows
  // that are neither too few nor too many, the first that leaves little room in the last group. Where there
  // is a stage, small chunks are worth more than full groups.
  int64_t chunk_slots(const Slots& at, int64_t group, bool direct) const {
    const int64_t group_bytes =
        int64_t{kGroup} * in_.m * in_.m * in_.channels * std::max(in_bytes, out_bytes);
    const int64_t least = (direct ? kLeastChunkBytes : kLeastStagedBytes) / group_bytes * group;
    const int64_t most = std::max<int64_t>(kMostChunkBytes / group_bytes, 1) * group;
    const double enough = direct ? 0.97 : 0.85;
    int64_t best = most;
    double best_share = 0;
    for (int64_t rows = least / at.row_slots + 1; rows * at.row_slots <= most && best_share < enough;
         ++rows) {
      const int64_t slots = rows * at.row_slots;
      const double share = static_cast<double>(slots) / ((slots + group - 1) / group * group);
      if (share > best_share) best = slots, best_share = share;
    }
    return best;
  }

  // The functions for a job.
  struct Turns {
    void (ColumnKernel::*spread)(const char* const*, const int64_t*, Scratch, Traffic) const;
    void (ColumnKernel::*collect)(Scratch, char* const*, const int64_t*, Traffic) const;
  };

  void run_chunks(const Job& job, const Slots& at, int64_t first, int64_t last) const {
    static thread_local Workspace kept;
    Workspace& work = kept;
    const bool stream =
        Vector::streams && job.n * job.h * job.w * job.plan.channels * out_bytes > kStreamBytes;
    const bool direct = !stream && Stage::padding(out_, at) == 0;
    const Cut cut{job, in_, out_, at, work.in, work.out, first, kGroup / at.blocks, stream, direct};
    const int64_t total = (last - first) * at.row_slots, most = chunk_slots(at, cut.group, direct);
    const bool rows = most % at.row_slots == 0;
    auto fill = [&](Chunk* chunk, int64_t done) {
      const int64_t rest = rows ? total - done : at.row_slots - done % at.row_slots;
      const int64_t count = std::min({most, rest, total - done});
      chunk->fill(cut, done, count);
      return count;
    };
    work.in.set(in_, at, job.in_stride, false);
    work.out.set(out_, at, job.out_stride, true);
    const int64_t column_bytes = int64_t{kGroup} * in_bytes;
    const int64_t group_bytes = (in_.lines * in_.columns + finish_.columns) * column_bytes;
    const int64_t groups = std::clamp<int64_t>(kScratchBytes / group_bytes, 1, kMostGroups);
    // Padding is for each row of pixels of each run, of which there are at most as many as slots.
    const int64_t stage_rows = int64_t{in_.m} * (out_.planar ? out_.channels : 1) * most;
    const int64_t stage_bytes =
        (direct ? 0 : stage_rows * (at.used * out_.block_bytes() + Stage::padding(out_, at))) +
        2 * kCacheLine;
    const Scratch scratch{work.aligned_room(groups * group_bytes + 2 * stage_bytes), group_bytes, groups};
    work.stage.memory = scratch.memory + groups * group_bytes;
    work.other_stage.memory = work.stage.memory + stage_bytes / kCacheLine * kCacheLine;
    work.stage.forget();
    work.other_stage.forget();
    work.other_stage.outbox.clear();
    const Turns turns{choose<in_bytes>(in_.columns, at.piece(in_),
                                       [](auto n, auto parts) {
                                         return &ColumnKernel::template spread<n.value, parts.value>;
                                       }),
                      choose<out_bytes>(out_.columns, at.piece(out_), [](auto n, auto parts) {
                        return &ColumnKernel::template collect<n.value, parts.value>;
                      })};
    int64_t taken = fill(&work.now, 0);
    for (int64_t done = 0; done < total;) {
      done += taken;
      work.next.inbox.clear();
      if (done < total) taken = fill(&work.next, done);
      if (!direct) work.stage.take(work.now, cut);
      make_chunk(cut, turns, scratch, &work);
      std::swap(work.now, work.next);
      std::swap(work.stage, work.other_stage);
    }
    if (!direct) work.other_stage.outbox.write_all();
    if (stream) Vector::fence();
  }

  void make_chunk(const Cut& cut, const Turns& turns, const Scratch& scratch, Workspace* work) const {
    const Chunk& now = work->now;
    const int64_t groups = now.slots / cut.group;
    const int64_t in_pieces = cut.group * work->in.slot_pieces,
                  out_pieces = cut.group * work->out.slot_pieces;
    char* const* to = cut.direct ? now.out.data() : work->stage.pieces.data();
    const int64_t* lines = cut.direct ? work->out.lines.data() : work->stage.lines.data();
    const Traffic traffic{work->next.inbox, work->other_stage.outbox};
    const int64_t count = (groups + scratch.groups - 1) / scratch.groups;
    traffic.in.set_shares(count * (in_.lines + out_.lines));
    traffic.out.set_shares(count * (in_.lines + out_.lines));
    for (int64_t k = 0; k < count; ++k) {
      const int64_t g = k * scratch.groups;
      const Scratch some{scratch.memory, scratch.bytes, std::min(scratch.groups, groups - g)};
      (this->*turns.spread)(now.in.data() + g * in_pieces, work->in.lines.data(), some, traffic);
      finish_.prepare(some);
      (this->*turns.collect)(some, to + g * out_pieces, lines, traffic);
    }
    traffic.out.write_all();
  }

  // f(columns, parts of a vector) for numbers known only now.
  template <int item, class F>
  static auto choose(int columns, int piece, F&& f) {
    constexpr int kLanes = Vector::bytes / kLane;
    auto parts = [&](auto n) {
      if constexpr (Vector::most_piece > kLane) {
        if (piece == 2) return f(n, std::integral_constant<int, kLanes / 2>());
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

  // Groups of blocks to columns.
  template <int n, int parts>
  void spread(const char* const* at, const int64_t* lines, const Scratch scratch,
              const Traffic traffic) const {
    const auto order = spread_order_.load();
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
            x[k] = Vector::gather<parts>(from + k * parts, offset);
            if (n * in_bytes < kLane) x[k] = Vector::within(x[k], order);
          }
          turn<in_bytes>(x);
#pragma GCC unroll 16
          for (int k = 0; k < n; ++k) Vector::store(to + (k * in_vectors + v) * Vector::bytes, x[k]);
        }
      }
      traffic.share();
    }
  }

  // Columns to groups of blocks. What a loop needs comes by value: stores of bytes may change whatever is
  // referred to.
  template <int n, int parts>
  void collect(const Scratch scratch, char* const* at, const int64_t* lines, const Traffic traffic) const {
    const auto order = collect_order_.load(), close = close_order_.load();
    const bool open = parts * kLane == Vector::bytes && !out_.dense();
    const int count = out_.lines;
    const auto read = finish_.reader();
    for (int line = 0; line < count; ++line) {
      const int64_t offset = lines[line];
      const auto change = finish_.change(line);
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
            for (int k = 0; k < n; ++k) x[v][k] = Vector::within(x[v][k], order);
          }
          turn<out_bytes>(x[v]);
          if (open) {
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) x[v][k] = Vector::within(x[v][k], close);
          }
#pragma GCC unroll 16
          for (int k = 0; k < n; ++k) {
            Vector::scatter<parts>(to + k * parts, offset, change(x[v][k]));
          }
        }
      }
      traffic.share();
    }
  }

  Side in_, out_;
  Finish finish_;
  LaneOrder spread_order_;   // [blocks][items] to [columns][blocks]
  LaneOrder collect_order_;  // [blocks][columns] to [columns][blocks]
  LaneOrder close_order_;    // [blocks][columns] to [blocks][items]
  std::unique_ptr<const Kernel> portable_;
};

// Level::make for `Vector`.
std::unique_ptr<const Kernel> make_columns(const Plan& plan, Type in, Type out, Layout layout) {
  std::unique_ptr<const Kernel> kernel;
  with_types(in, out, [&](auto in_type, auto out_type) {
    using In = decltype(in_type);
    using Out = decltype(out_type);
    if constexpr (kByteLookups<In, Out> || kWideLookups<In, Out> || !kInteger<In>) {
      if (layout != Layout::any) {
        kernel = std::make_unique<ColumnKernel<In, Out>>(plan, layout == Layout::planar);
      }
    }
  });
  return kernel ? std::move(kernel) : make_portable(plan, in, out);
}

}  // namespace
}  // namespace blockenc
