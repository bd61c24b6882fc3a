// Where the work of the vector kernels lies in memory: in rows of pixels, and in a stage before it goes
// there.
//
// Work goes in *chunks*, of rows of blocks or of a part of one. A chunk is a list of *slots*, each some
// blocks that follow each other in a row. A slot is read and written in *pieces* of one or two lanes that
// are together in memory; on each side, the input's and the output's, a piece begins in all lines at the
// same distance from where it begins in the first.
//
// Large outputs are put together in a stage, then written past the caches in the order of memory, whole
// cache lines at a time, while the next chunk is in work and the input of the one after is asked for. Chunks
// are small then: a chunk, its stage and that of the chunk before should stay in the first-level cache, whose
// misses wait for the same few buffers as the traffic with memory does.
//
// Included by columns-inl.h, after `Vector` is defined.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../plan.h"

namespace blockenc {
namespace {

constexpr int kLane = 16;
constexpr int kCacheLine = 64;
constexpr int64_t kLeastChunkBytes = 16 * 1024;  // of input or output, the larger
constexpr int64_t kLeastStagedBytes = 4 * 1024;  // the same, where there is a stage
constexpr int64_t kMostChunkBytes = 48 * 1024;   // or one group of blocks
constexpr int64_t kLeastTransfer = 512;          // from or to memory, at a time
constexpr int64_t kScratchBytes = 8 * 1024;      // of groups that are made together, and how many of them
constexpr int64_t kMostGroups = 8;
constexpr int64_t kStreamBytes = 3 << 20;  // outputs larger than this are not read back from a cache

// How blocks lie in lanes of 16 bytes of a row of pixels, on one side: as many whole block rows as fit, of a
// number of items rounded up to a power of two; or, where a block row is longer, a *segment* of it. What a
// lane position holds for many blocks is a *line*.
struct Side {
  bool planar;  // rows hold one channel; otherwise channels are interleaved
  int m, channels;
  int item;      // bytes of an item
  int items;     // of a block row: M, or M*C interleaved
  int segments;  // lanes of a block row, 1 where it fits in a lane
  int columns;   // items of a block in a lane, rounded up to a power of two
  int blocks;    // of a lane
  int lines;     // of a block

  Side(const Plan& plan, int item, bool planar)
      : planar(planar), m(plan.block_size), channels(plan.channels), item(item) {
    items = planar ? m : m * channels;
    const int full = kLane / item;
    segments = (items + full - 1) / full;
    columns = 1;
    while (columns < std::min(items, full)) columns *= 2;
    blocks = full / columns;
    lines = (planar ? m * channels : m) * segments;
  }

  // The first item of a segment; the last one overlaps its neighbour rather than being short.
  int segment_start(int segment) const {
    return segments == 1 ? 0 : std::min(segment * columns, items - columns);
  }

  // Whether items follow each other without gaps in a lane, and in lanes side by side.
  bool dense() const { return segments > 1 || items == columns; }
  bool contiguous() const { return segments == 1 && items == columns; }

  int64_t block_bytes() const { return int64_t{items} * item; }  // of a block row

  // The position in the block vector of an item of a lane, -1 where there is none.
  int position(int line, int column) const {
    const int row = line / segments, e = segment_start(line % segments) + column;
    if (e >= items) return -1;
    return planar ? (row % m * m + e) * channels + row / m : row * items + e;
  }

  // The line that holds position p, and which of its items that is, as line * columns + column.
  int column_of(int p) const {
    const int row = planar ? p % channels * m + p / channels / m : p / items;
    const int e = planar ? p / channels % m : p % items;
    const int segment = std::min(e / columns, segments - 1);
    return (row * segments + segment) * columns + (e - segment_start(segment));
  }

  // Calls f(channel, row, item) for each line: where it begins in a block, from the block's first pixel.
  template <class F>
  void each_line(F&& f) const {
    for (int channel = 0; channel < (planar ? channels : 1); ++channel) {
      for (int row = 0; row < m; ++row) {
        for (int s = 0; s < segments; ++s) f(channel, row, segment_start(s));
      }
    }
  }
};

// How the rows of blocks of a job are cut into slots. The sides have the same slots, of `blocks` blocks; the
// last one of a row overlaps its neighbour rather than being short. Where a row has fewer blocks than a slot
// has room for, only the first `used` of a slot are there.
struct Slots {
  int64_t row_blocks, blocks, used, row_slots;

  Slots(const Side& in, const Side& out, int64_t row_blocks) : row_blocks(row_blocks) {
    blocks = std::max(in.blocks, out.blocks);
    const bool pairs = (in.contiguous() || out.contiguous()) && row_blocks >= 2 * blocks;
    if (pairs && Vector::most_piece > kLane) blocks *= 2;
    used = std::min(blocks, row_blocks);
    row_slots = (row_blocks + used - 1) / used;
  }

  bool whole() const { return used == blocks; }
  int64_t first_block(int64_t slot) const { return std::min(slot * used, row_blocks - used); }
  // One past the last block of the slots before `slot`.
  int64_t end_block(int64_t slot) const { return std::min(slot * used, row_blocks); }

  // Lanes of a piece.
  int piece(const Side& side) const {
    return side.contiguous() && whole() && blocks >= 2 * side.blocks ? Vector::most_piece / kLane : 1;
  }

  int64_t pieces(const Side& side) const { return blocks / (piece(side) * side.blocks); }  // of a slot

  // Appends where the pieces of a slot begin in a row of pixels, in bytes; `none` for those that are not
  // there.
  void add_pieces(const Side& side, int64_t slot, int64_t none, std::vector<int64_t>* at) const {
    const int step = piece(side) * side.blocks;
    for (int64_t b = 0; b < blocks; b += step) {
      at->push_back(b < used ? (first_block(slot) + b) * side.block_bytes() : none);
    }
  }
};

// Slots [slot, slot + slots) of a row of blocks.
struct Run {
  const char* in;  // the row of blocks
  char* out;
  int64_t slot, slots;
};

// One side of a job: where the pieces of a row of blocks begin in the row, and its lines, in bytes.
struct Row {
  std::vector<int64_t> pieces, lines;
  int64_t slot_pieces;

  void set(const Side& side, const Slots& at, const int64_t* stride, bool output) {
    slot_pieces = at.pieces(side);
    pieces.clear();
    // Pieces that are not there are read from the beginning of the row, and written to the end, where a stage
    // has padding.
    const int64_t none = output ? at.row_blocks * side.block_bytes() : 0;
    for (int64_t k = 0; k < at.row_slots; ++k) at.add_pieces(side, k, none, &pieces);
    lines.clear();
    side.each_line([&](int channel, int row, int item) {
      lines.push_back((channel * stride[1] + row * stride[2] + item) * side.item);
    });
  }

  // Where the pieces of slots [slot, slot + slots) are of the row that begins at `row`.
  template <class Pointer>
  void place(Pointer row, int64_t slot, int64_t slots, Pointer* __restrict to) const {
    const int64_t* from = pieces.data() + slot * slot_pieces;
    for (int64_t k = 0; k < slots * slot_pieces; ++k) to[k] = row + from[k];
  }
};

// Room for at least `size`, of which the first ones keep what they are.
template <class T>
T* room(std::vector<T>* vector, int64_t size) {
  if (static_cast<int64_t>(vector->size()) < size) vector->resize(size);
  return vector->data();
}

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

// Bytes that are to come from memory or to go there, a share at a time between other work: all at once they
// would fill the buffers to memory, and the other work would wait.
class Transfers {
 public:
  void clear() {
    pieces_.clear();
    first_ = 0;
    bytes_ = share_ = due_ = 0;
  }

  // How often share will be called, once all was added.
  void set_shares(int64_t times) { share_ = (bytes_ + times - 1) / times; }

 protected:
  // What follows the piece before, on both sides, becomes part of it.
  void add(char* to, const char* from, int64_t bytes) {
    bytes_ += bytes;
    if (!pieces_.empty() && pieces_.back().to + pieces_.back().bytes == to &&
        pieces_.back().from + pieces_.back().bytes == from) {
      pieces_.back().bytes += bytes;
    } else {
      pieces_.push_back({to, from, bytes});
    }
  }

  // move(to, from, bytes) for a share, or for none where it would be small.
  template <class Move>
  void share(Move&& move) {
    due_ += share_;
    if (due_ < kLeastTransfer) return;
    some(due_, move);
    due_ = 0;
  }
  template <class Move>
  void all(Move&& move) {
    some(bytes_, move);
  }

 private:
  // About `bytes` bytes, to the end of a cache line; or what there is. Within the callers' loops it would
  // cost them registers.
  template <class Move>
  __attribute__((noinline)) void some(int64_t bytes, Move&& move) {
    while (bytes > 0 && first_ < pieces_.size()) {
      Piece& piece = pieces_[first_];
      const int64_t past = (reinterpret_cast<uintptr_t>(piece.to) + bytes) & (kCacheLine - 1);
      const int64_t n = std::min(bytes + (kCacheLine - past), piece.bytes);
      move(piece.to, piece.from, n);
      piece = {piece.to + n, piece.from + n, piece.bytes - n};
      if (piece.bytes == 0) ++first_;
      bytes -= n;
    }
  }

  struct Piece {
    char* to;
    const char* from;
    int64_t bytes;
  };
  std::vector<Piece> pieces_;
  size_t first_ = 0;  // not moved yet
  int64_t bytes_ = 0, share_ = 0, due_ = 0;
};

// The input of the next chunk, which is only asked for: it stays where it is.
class Inbox : public Transfers {
 public:
  void add(const char* at, int64_t bytes) { Transfers::add(const_cast<char*>(at), at, bytes); }
  void share() {
    Transfers::share([](char*, const char* from, int64_t bytes) {
      for (int64_t k = 0; k < bytes; k += kCacheLine) Vector::prefetch(from + k);
    });
  }
};

// Finished bytes that wait in a stage to be written.
class Outbox : public Transfers {
 public:
  bool stream = false;  // past the caches

  using Transfers::add;
  void share() { Transfers::share(Write{stream}); }
  void write_all() { Transfers::all(Write{stream}); }

 private:
  struct Write {
    bool stream;
    void operator()(char* to, const char* from, int64_t bytes) const {
      if (stream) {
        stream_bytes(to, from, bytes);
      } else {
        std::memcpy(to, from, bytes);
      }
    }
  };
};

// What goes on beside the work on a chunk.
struct Traffic {
  Inbox& in;    // of the chunk after
  Outbox& out;  // of the chunk before

  void share() const {
    in.share();
    out.share();
  }
};

// How a job is cut into chunks: what is the same for all of them.
struct Cut {
  const Job& job;
  const Side &in, &out;
  const Slots& at;
  const Row &in_row, &out_row;
  int64_t first;  // row of blocks
  int64_t group;  // slots of a group
  bool stream;    // whether the output is written past the caches
  bool direct;    // whether without a stage
};

// Runs that follow each other, as many slots in each, and where their pieces begin in the first line.
struct Chunk {
  std::vector<Run> runs;        // where there is a stage
  std::vector<const char*> in;  // of as many slots as there are
  std::vector<char*> out;       // the same; not in use where there is a stage
  Inbox inbox;                  // the input, where there is a stage
  int64_t slots = 0;            // with those that fill up the last group

  // Takes `count` slots from slot `done` on; then the last one again and again, until groups are full.
  void fill(const Cut& cut, int64_t done, int64_t count) {
    runs.clear();
    const Job& job = cut.job;
    const Slots& at = cut.at;
    const int64_t block_rows = job.h / job.plan.block_size, r = cut.first + done / at.row_slots;
    int64_t image = r / block_rows, row = r % block_rows, slot = done % at.row_slots, here = 0;
    slots = (count + cut.group - 1) / cut.group * cut.group;
    const char** in_at = room(&in, slots * cut.in_row.slot_pieces);
    char** out_at = room(&out, cut.direct ? slots * cut.out_row.slot_pieces : 0);
    const int64_t in_step = job.plan.block_size * job.in_stride[2] * cut.in.item;
    const int64_t out_step = job.plan.block_size * job.out_stride[2] * cut.out.item;
    const char* from;
    char* to;
    auto start_image = [&] {
      from = static_cast<const char*>(job.in) + image * job.in_stride[0] * cut.in.item + row * in_step;
      to = static_cast<char*>(job.out) + image * job.out_stride[0] * cut.out.item + row * out_step;
    };
    start_image();
    auto add = [&](int64_t k, int64_t n) {
      cut.in_row.place(from, k, n, in_at);
      in_at += n * cut.in_row.slot_pieces;
      if (!cut.direct) return;
      cut.out_row.place(to, k, n, out_at);
      out_at += n * cut.out_row.slot_pieces;
    };
    for (int64_t filled = 0; filled < count; filled += here) {
      if (filled > 0) {
        slot = 0;
        from += in_step;
        to += out_step;
        if (++row == block_rows) row = 0, ++image, start_image();
      }
      here = std::min(at.row_slots - slot, count - filled);
      add(slot, here);
      if (!cut.direct) runs.push_back({from, to, slot, here});
    }
    for (int64_t k = count; k < slots; ++k) add(slot + here - 1, 1);
    fill_inbox(cut);
  }

 private:
  void fill_inbox(const Cut& cut) {
    inbox.clear();
    const Side& side = cut.in;
    const int64_t row_bytes = cut.job.in_stride[2] * side.item;
    for (int channel = 0; channel < (side.planar ? side.channels : 1); ++channel) {
      for (const Run& run : runs) {
        const int64_t start = cut.at.first_block(run.slot) * side.block_bytes();
        const int64_t bytes = cut.at.end_block(run.slot + run.slots) * side.block_bytes() - start;
        const char* from = run.in + start + channel * cut.job.in_stride[1] * side.item;
        const bool gapless = row_bytes == bytes;
        for (int row = 0; row < (gapless ? 1 : side.m); ++row) {
          inbox.add(from + row * row_bytes, gapless ? side.m * bytes : bytes);
        }
      }
    }
  }
};

// Where a chunk's output is put together: the rows of pixels of its runs, in the order of memory. The next
// chunk has mostly the same shape, for which all is in place.
struct Stage {
  char* memory = nullptr;
  std::vector<char*> pieces;   // where each piece begins in the first line
  std::vector<int64_t> lines;  // bytes to each line
  Outbox outbox;

  // What a row takes beyond its bytes: lanes that are not full are written whole, and pieces that are not
  // there are written too, in any segment.
  static int64_t padding(const Side& side, const Slots& at) {
    return !at.whole() ? kLane + side.block_bytes() : side.dense() ? 0 : kLane;
  }

  void take(const Chunk& chunk, const Cut& cut) {
    const Side& side = cut.out;
    const Slots& at = cut.at;
    const int64_t first = chunk.runs[0].slot, run_slots = chunk.runs[0].slots, m = side.m;
    const int64_t runs = static_cast<int64_t>(chunk.runs.size());
    const int64_t start = at.first_block(first) * side.block_bytes();
    const int64_t bytes = at.end_block(first + run_slots) * side.block_bytes() - start;
    const int64_t pitch = bytes + padding(side, at);
    if (runs != runs_ || first != first_ || run_slots != run_slots_ || chunk.slots != slots_) {
      runs_ = runs;
      first_ = first;
      run_slots_ = run_slots;
      slots_ = chunk.slots;
      auto row = [&](int64_t run) { return memory + run * m * pitch - start; };
      char** piece = room(&pieces, chunk.slots * cut.out_row.slot_pieces);
      auto add = [&](int64_t run, int64_t slot, int64_t slots) {
        cut.out_row.place(row(run), slot, slots, piece);
        piece += slots * cut.out_row.slot_pieces;
      };
      for (int64_t r = 0; r < runs; ++r) add(r, first, run_slots);
      for (int64_t k = runs * run_slots; k < chunk.slots; ++k) add(runs - 1, first + run_slots - 1, 1);
      lines.clear();
      side.each_line([&](int channel, int row, int item) {
        lines.push_back((channel * runs * m + row) * pitch + int64_t{item} * side.item);
      });
    }
    outbox.clear();
    outbox.stream = cut.stream;
    const char* from = memory;
    for (int channel = 0; channel < (side.planar ? side.channels : 1); ++channel) {
      for (const Run& run : chunk.runs) {
        char* to = run.out + start + channel * cut.job.out_stride[1] * side.item;
        const int64_t row_bytes = cut.job.out_stride[2] * side.item;
        const bool gapless = row_bytes == bytes && pitch == bytes;
        for (int row = 0; row < (gapless ? 1 : m); ++row) {
          outbox.add(to + row * row_bytes, from + row * pitch, gapless ? m * bytes : bytes);
        }
        from += m * pitch;
      }
    }
  }

  void forget() { runs_ = 0; }

 private:
  int64_t runs_ = 0, first_ = 0, run_slots_ = 0, slots_ = 0;  // of the chunk that all is in place for
};

}  // namespace
}  // namespace blockenc
