// Where the work of the vector kernel lies in memory: the tiles of block rows, and the staging buffer that
// output passes through.
//
// A *block row* is a row of blocks of an image: M pixel rows. It is cut into *tiles*, each a few blocks side
// by side. A tile is read and written in *parts*: a part is one lane, or some lanes side by side, of every
// line (BlockLayout says what a line is). Parts that start at some address in the first line start at the
// same distance from it in every other line, so one address for each part and one offset for each line locate
// all.
//
// Work is done in *chunks* of tiles: some block rows, or some tiles of one.
//
// Large outputs are not stored where they belong at once. A chunk is put together in a staging buffer; while
// the next chunk is in work, the buffer is written to the output past the caches, in the order of memory and
// in whole cache lines, and the input of the chunk after that is prefetched. These chunks are small, so that
// a chunk, its staging buffer and that of the chunk before stay in the first-level cache: its misses would
// have to wait for the same few line fill buffers that the traffic with memory uses.
//
// Included by the headers of the kernels, after `Vector` is defined.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../plan.h"

namespace blockenc {
namespace {

constexpr int kLane = 16;  // bytes
constexpr int kCacheLine = 64;
constexpr int64_t kMinChunkBytes = 16 * 1024;       // of the input or the output, whichever is larger
constexpr int64_t kMinStagedChunkBytes = 4 * 1024;  // the same, with a staging buffer
constexpr int64_t kMaxChunkBytes = 48 * 1024;       // or one group of blocks, if that is more
constexpr int64_t kMinTransferBytes = 512;          // prefetched or written at a time
constexpr int64_t kScratchBytes = 8 * 1024;         // for groups of blocks that are transposed together
constexpr int64_t kMaxGroups = 8;                   // of those groups
constexpr int64_t kMinStreamedBytes =
    3 << 20;  // outputs above this would have left the caches when they are read

// How blocks lie in memory, in the input or in the output. A block is cut into *lines*, which are what fits
// in a lane: a pixel row of the block (of one channel if the image is planar), or, if that is longer than a
// lane, a *segment* of it. If several lines fit in a lane, it holds the same line of several blocks.
struct BlockLayout {
  bool planar;  // a pixel row holds one channel; otherwise the channels are interleaved
  int m, channels;
  int item;      // bytes of a value
  int items;     // of a pixel row of a block: M, or M * C interleaved
  int segments;  // of a pixel row of a block
  int columns;   // items of a block in a lane, a power of two
  int blocks;    // of a lane
  int lines;     // of a block

  // exact: whether a line has no items beyond its pixel row, as blocks need it whose neighbours are others
  // than in the image. Where `items` is no power of two, the segments are then as long as the next smaller
  // one; else a lane holds a whole pixel row.
  BlockLayout(const Plan& plan, int item, bool planar, bool exact = false)
      : planar(planar), m(plan.block_size), channels(plan.channels), item(item) {
    items = planar ? m : m * channels;
    const int lane_items = kLane / item;
    columns = 1;
    while (columns < std::min(items, lane_items)) columns *= 2;
    if (exact && columns > items) columns /= 2;
    segments = (items + columns - 1) / columns;
    blocks = lane_items / columns;
    lines = (planar ? m * channels : m) * segments;
  }

  // The first item of a segment. The last segment is as long as the others and overlaps the one before it.
  int segment_start(int segment) const {
    return segments == 1 ? 0 : std::min(segment * columns, items - columns);
  }

  // Whether no lane has unused items between those of its blocks.
  bool dense() const { return segments > 1 || items == columns; }
  // Whether lanes side by side in memory are lanes of a line, with no items between them.
  bool contiguous() const { return segments == 1 && items == columns; }

  int64_t row_bytes() const { return int64_t{items} * item; }        // of a pixel row of a block
  int lane_pitch() const { return segments > 1 ? columns : items; }  // items from block to block in a lane

  // The position in the block vector of an item of a line, -1 where a line has no such item.
  int position(int line, int column) const {
    const int row = line / segments, e = segment_start(line % segments) + column;
    if (e >= items) return -1;
    return planar ? (row % m * m + e) * channels + row / m : row * items + e;
  }

  // The inverse: the line of a position and which of the line's items it is, as line * columns + column.
  int column_of(int p) const {
    const int row = planar ? p % channels * m + p / channels / m : p / items;
    const int e = planar ? p / channels % m : p % items;
    const int segment = std::min(e / columns, segments - 1);
    return (row * segments + segment) * columns + (e - segment_start(segment));
  }

  // Where each line begins in its block, in bytes.
  std::vector<int64_t> line_offsets(const int64_t* stride) const {
    std::vector<int64_t> offsets;
    each_line([&](int channel, int row, int first) {
      offsets.push_back((channel * stride[1] + row * stride[2] + first) * item);
    });
    return offsets;
  }

  // Calls f(channel, row, item) for each line: the item of a block that it begins with.
  template <class F>
  void each_line(F&& f) const {
    for (int channel = 0; channel < (planar ? channels : 1); ++channel) {
      for (int row = 0; row < m; ++row) {
        for (int s = 0; s < segments; ++s) f(channel, row, segment_start(s));
      }
    }
  }
};

// Where each block of an image begins, in elements.
inline std::vector<int64_t> block_offsets(const Plan& plan, const int64_t* stride) {
  std::vector<int64_t> offsets;
  offsets.reserve(plan.blocks());
  for (int64_t row = 0; row < plan.grid_rows; ++row) {
    for (int64_t column = 0; column < plan.grid_columns; ++column) {
      offsets.push_back((row * stride[2] + column * stride[3]) * plan.block_size);
    }
  }
  return offsets;
}

// How the block rows of a job are cut into tiles of `blocks` blocks, the same ones in the input and the
// output. The last tile of a block row has as many blocks as the others and overlaps the one before it. Where
// a whole block row has fewer blocks than a tile, only the first `used` blocks of its tile exist.
struct RowTiling {
  int64_t row_blocks, blocks, used, row_tiles;

  RowTiling(const BlockLayout& in, const BlockLayout& out, int64_t row_blocks) : row_blocks(row_blocks) {
    blocks = std::max(in.blocks, out.blocks);
    for (const BlockLayout* layout : {&in, &out}) {
      const int64_t most = int64_t{most_part_lanes(*layout)} * layout->blocks;
      if (most <= row_blocks) blocks = std::max(blocks, most);
    }
    used = std::min(blocks, row_blocks);
    row_tiles = (row_blocks + used - 1) / used;
  }

  bool full() const { return used == blocks; }
  int64_t first_block(int64_t tile) const { return std::min(tile * used, row_blocks - used); }
  // One past the last block of the tiles before `tile`.
  int64_t end_block(int64_t tile) const { return std::min(tile * used, row_blocks); }

  int part_lanes(const BlockLayout& layout) const {
    const int most = most_part_lanes(layout);
    return full() && blocks >= int64_t{most} * layout.blocks ? most : 1;
  }

  int64_t tile_parts(const BlockLayout& layout) const {
    return blocks / (part_lanes(layout) * layout.blocks);
  }

  // Appends where the parts of a tile begin in a pixel row, in bytes; `absent` for parts without a block.
  void add_parts(const BlockLayout& layout, int64_t tile, int64_t absent,
                 std::vector<int64_t>* starts) const {
    const int step = part_lanes(layout) * layout.blocks;
    for (int64_t b = 0; b < blocks; b += step) {
      starts->push_back(b < used ? (first_block(tile) + b) * layout.row_bytes() : absent);
    }
  }

 private:
  // The lanes of a part, where a row has enough blocks. Lanes with unused items are side by side in memory
  // without these: a permutation of the whole vector puts each where it belongs.
  static int most_part_lanes(const BlockLayout& layout) {
    if (layout.contiguous()) return Vector::max_part_bytes / kLane;
    return Vector::has_fast_permute && layout.segments == 1 && layout.item == 1 ? Vector::bytes / kLane : 1;
  }
};

// The tiles [tile, tile + tiles) of a block row.
struct TileRun {
  const char* in;  // where the block row begins
  char* out;
  int64_t tile, tiles;
};

// Offsets in bytes that are the same for every block row of the input, or of the output.
struct BlockRowOffsets {
  std::vector<int64_t> parts;  // from the beginning of the block row, in its first line
  std::vector<int64_t> lines;  // from the first line
  int64_t tile_parts;

  void set(const BlockLayout& layout, const RowTiling& tiling, const int64_t* stride, bool output) {
    tile_parts = tiling.tile_parts(layout);
    parts.clear();
    // Parts without a block are read at the beginning of the block row, where it does no harm, and written
    // behind its end, where the staging buffer has padding.
    const int64_t absent = output ? tiling.row_blocks * layout.row_bytes() : 0;
    for (int64_t k = 0; k < tiling.row_tiles; ++k) tiling.add_parts(layout, k, absent, &parts);
    lines = layout.line_offsets(stride);
  }

  // Writes the addresses of the parts of tiles [tile, tile + tiles) of the block row that begins at `row`.
  template <class Pointer>
  void locate(Pointer row, int64_t tile, int64_t tiles, Pointer* __restrict to) const {
    const int64_t* from = parts.data() + tile * tile_parts;
    for (int64_t k = 0; k < tiles * tile_parts; ++k) to[k] = row + from[k];
  }
};

// Makes the vector at least `size` long, keeping what it holds, and returns its first element.
template <class T>
T* room(std::vector<T>* vector, int64_t size) {
  if (static_cast<int64_t>(vector->size()) < size) vector->resize(size);
  return vector->data();
}

// The same for at least `bytes` bytes from the beginning of a cache line on.
inline char* aligned_room(std::vector<char>* memory, int64_t bytes) {
  char* const first = room(memory, bytes + kCacheLine);
  return first + (-reinterpret_cast<uintptr_t>(first) & (kCacheLine - 1));
}

constexpr int64_t whole_lines(int64_t bytes) { return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine; }

// Copies, past the caches where that makes whole cache lines.
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

// Transfers between memory and the caches that are spread over the work on a chunk. All at once they would
// occupy every line fill buffer, and that work would wait.
class TransferQueue {
 public:
  void clear() {
    transfers_.clear();
    first_ = 0;
    bytes_ = step_bytes_ = due_ = 0;
  }

  // To be called when all transfers are added: how often step() will be called.
  void set_steps(int64_t steps) { step_bytes_ = (bytes_ + steps - 1) / steps; }

 protected:
  // A transfer that goes on where the one before it ends, on both sides, is joined with it.
  void add(char* to, const char* from, int64_t bytes) {
    bytes_ += bytes;
    if (!transfers_.empty() && transfers_.back().to + transfers_.back().bytes == to &&
        transfers_.back().from + transfers_.back().bytes == from) {
      transfers_.back().bytes += bytes;
    } else {
      transfers_.push_back({to, from, bytes});
    }
  }

  // The same bytes of some pixel rows, by the distances from one to the next on both sides.
  void add_rows(char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t rows,
                int64_t bytes) {
    if (to_stride == bytes && from_stride == bytes) {
      if (rows > 0) add(to, from, rows * bytes);
      return;
    }
    for (int64_t row = 0; row < rows; ++row) add(to + row * to_stride, from + row * from_stride, bytes);
  }

  // Calls move(to, from, bytes) for the bytes that are due, once these are enough.
  template <class Move>
  void step(Move&& move) {
    due_ += step_bytes_;
    if (due_ < kMinTransferBytes) return;
    advance(due_, move);
    due_ = 0;
  }
  template <class Move>
  void finish(Move&& move) {
    advance(bytes_, move);
  }

 private:
  // Moves about `bytes` bytes, up to the end of a cache line. Not inlined: in the loops of the callers it
  // would take registers that these need.
  template <class Move>
  __attribute__((noinline)) void advance(int64_t bytes, Move&& move) {
    while (bytes > 0 && first_ < transfers_.size()) {
      Transfer& transfer = transfers_[first_];
      const int64_t past = (reinterpret_cast<uintptr_t>(transfer.to) + bytes) & (kCacheLine - 1);
      const int64_t n = std::min(bytes + (kCacheLine - past), transfer.bytes);
      move(transfer.to, transfer.from, n);
      transfer = {transfer.to + n, transfer.from + n, transfer.bytes - n};
      if (transfer.bytes == 0) ++first_;
      bytes -= n;
    }
  }

  struct Transfer {
    char* to;
    const char* from;
    int64_t bytes;
  };
  std::vector<Transfer> transfers_;
  size_t first_ = 0;  // the first that is not done
  int64_t bytes_ = 0, step_bytes_ = 0, due_ = 0;
};

// The input of the next chunk, to be prefetched into the caches.
class PrefetchQueue : public TransferQueue {
 public:
  void add_rows(const char* from, int64_t stride, int64_t rows, int64_t bytes) {
    TransferQueue::add_rows(const_cast<char*>(from), stride, from, stride, rows, bytes);
  }
  void step() {
    TransferQueue::step([](char*, const char* from, int64_t bytes) {
      for (int64_t k = 0; k < bytes; k += kCacheLine) Vector::prefetch(from + k);
    });
  }
};

// The bytes of a staging buffer, to be written to the output.
class WriteQueue : public TransferQueue {
 public:
  bool stream = false;  // past the caches

  using TransferQueue::add_rows;
  void step() { TransferQueue::step(Write{stream}); }
  void finish() { TransferQueue::finish(Write{stream}); }

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

// The transfers that go on while a chunk is in work.
struct Traffic {
  PrefetchQueue& prefetches;  // of the next chunk's input
  WriteQueue& writes;         // of the chunk before

  void step() const {
    prefetches.step();
    writes.step();
  }
};

// What is the same for all chunks of a job.
struct Chunking {
  const Job& job;
  const BlockLayout &in, &out;
  const RowTiling& tiling;
  const BlockRowOffsets &in_offsets, &out_offsets;
  int64_t first;  // the block row that the first chunk begins with
  int64_t group;  // tiles of a group of blocks
  int64_t set;    // tiles of the groups that are transposed together
  bool stream;    // whether the output is written past the caches
  bool direct;    // whether tiles are stored in the output at once, without a staging buffer
};

// Runs of tiles, one a block row and all of the same length, and the addresses of their parts in the first
// line.
struct Chunk {
  std::vector<TileRun> runs;    // empty without a staging buffer
  std::vector<const char*> in;  // at least of `tiles` tiles
  std::vector<char*> out;       // the same; not used with a staging buffer
  PrefetchQueue prefetches;     // of the input; empty without a staging buffer
  int64_t tiles = 0;            // a multiple of a group's: the last tile is repeated to fill the last group

  // Takes `count` tiles from number `done` on, counted from the first chunk's first.
  void fill(const Chunking& chunking, int64_t done, int64_t count) {
    runs.clear();
    const Job& job = chunking.job;
    const RowTiling& tiling = chunking.tiling;
    const BlockRowOffsets &in_offsets = chunking.in_offsets, &out_offsets = chunking.out_offsets;
    const int64_t block_rows = job.h / job.plan.block_size, r = chunking.first + done / tiling.row_tiles;
    int64_t image = r / block_rows, row = r % block_rows, tile = done % tiling.row_tiles, run_tiles = 0;
    tiles = (count + chunking.group - 1) / chunking.group * chunking.group;
    const char** in_parts = room(&in, tiles * in_offsets.tile_parts);
    char** out_parts = room(&out, chunking.direct ? tiles * out_offsets.tile_parts : 0);
    const int64_t in_step = job.plan.block_size * job.in_stride[2] * chunking.in.item;
    const int64_t out_step = job.plan.block_size * job.out_stride[2] * chunking.out.item;
    const char* from;  // the block row
    char* to;
    auto start_image = [&] {
      from = static_cast<const char*>(job.in) + image * job.in_stride[0] * chunking.in.item + row * in_step;
      to = static_cast<char*>(job.out) + image * job.out_stride[0] * chunking.out.item + row * out_step;
    };
    start_image();
    auto add = [&](int64_t k, int64_t n) {
      in_offsets.locate(from, k, n, in_parts);
      in_parts += n * in_offsets.tile_parts;
      if (!chunking.direct) return;
      out_offsets.locate(to, k, n, out_parts);
      out_parts += n * out_offsets.tile_parts;
    };
    for (int64_t filled = 0; filled < count; filled += run_tiles) {
      if (filled > 0) {
        tile = 0;
        from += in_step;
        to += out_step;
        if (++row == block_rows) row = 0, ++image, start_image();
      }
      run_tiles = std::min(tiling.row_tiles - tile, count - filled);
      add(tile, run_tiles);
      if (!chunking.direct) runs.push_back({from, to, tile, run_tiles});
    }
    for (int64_t k = count; k < tiles; ++k) add(tile + run_tiles - 1, 1);
    queue_prefetches(chunking);
  }

 private:
  void queue_prefetches(const Chunking& chunking) {
    prefetches.clear();
    const BlockLayout& layout = chunking.in;
    const int64_t row_stride = chunking.job.in_stride[2] * layout.item;
    for (int channel = 0; channel < (layout.planar ? layout.channels : 1); ++channel) {
      for (const TileRun& run : runs) {
        const int64_t start = chunking.tiling.first_block(run.tile) * layout.row_bytes();
        const int64_t bytes = chunking.tiling.end_block(run.tile + run.tiles) * layout.row_bytes() - start;
        const char* from = run.in + start + channel * chunking.job.in_stride[1] * layout.item;
        prefetches.add_rows(from, row_stride, layout.m, bytes);
      }
    }
  }
};

// The memory that a chunk's output is put together in: the pixel rows of its runs, in the order in which they
// lie in the output. Chunks mostly have the same shape, so the addresses are kept for the next one.
struct StagingBuffer {
  char* memory = nullptr;
  std::vector<char*> parts;    // where each part begins in the first line
  std::vector<int64_t> lines;  // offsets from the first line
  WriteQueue writes;

  // Bytes of the buffer behind a pixel row: parts are stored whole also where their last items are not in
  // use, and so are parts without a block, in every segment.
  static int64_t padding(const BlockLayout& layout, const RowTiling& tiling) {
    if (!tiling.full()) return kLane + layout.row_bytes();
    return layout.dense() ? 0 : kLane * tiling.part_lanes(layout);
  }

  // Makes the addresses for a chunk, and queues the writes to the output.
  void set(const Chunk& chunk, const Chunking& chunking) {
    const BlockLayout& layout = chunking.out;
    const RowTiling& tiling = chunking.tiling;
    const int64_t first = chunk.runs[0].tile, run_tiles = chunk.runs[0].tiles, m = layout.m;
    const int64_t runs = static_cast<int64_t>(chunk.runs.size());
    const int64_t start = tiling.first_block(first) * layout.row_bytes();
    const int64_t bytes = tiling.end_block(first + run_tiles) * layout.row_bytes() - start;
    const int64_t padded = padding(layout, tiling);
    // What is stored beyond a pixel row may lie where the next one is stored later, if all tiles of a run are
    // transposed together. Then only the last one is padded, and the output is written in few long pieces.
    const bool joined = padded > 0 && (chunk.tiles <= chunking.set || chunking.set % run_tiles == 0);
    const int64_t pitch = joined ? bytes : bytes + padded;
    const int64_t run_pitch = joined ? whole_lines(m * bytes + padded) : m * pitch;
    if (runs != runs_ || first != first_ || run_tiles != run_tiles_ || chunk.tiles != tiles_) {
      runs_ = runs;
      first_ = first;
      run_tiles_ = run_tiles;
      tiles_ = chunk.tiles;
      const BlockRowOffsets& offsets = chunking.out_offsets;
      auto block_row = [&](int64_t run) { return memory + run * run_pitch - start; };
      char** to = room(&parts, chunk.tiles * offsets.tile_parts);
      auto add = [&](int64_t run, int64_t tile, int64_t tiles) {
        offsets.locate(block_row(run), tile, tiles, to);
        to += tiles * offsets.tile_parts;
      };
      for (int64_t r = 0; r < runs; ++r) add(r, first, run_tiles);
      for (int64_t k = runs * run_tiles; k < chunk.tiles; ++k) add(runs - 1, first + run_tiles - 1, 1);
      lines.clear();
      layout.each_line([&](int channel, int row, int item) {
        lines.push_back(channel * runs * run_pitch + row * pitch + int64_t{item} * layout.item);
      });
    }
    writes.clear();
    writes.stream = chunking.stream;
    const char* from = memory;
    for (int channel = 0; channel < (layout.planar ? layout.channels : 1); ++channel) {
      for (const TileRun& run : chunk.runs) {
        char* to = run.out + start + channel * chunking.job.out_stride[1] * layout.item;
        const int64_t row_stride = chunking.job.out_stride[2] * layout.item;
        writes.add_rows(to, row_stride, from, pitch, m, bytes);
        from += run_pitch;
      }
    }
  }

  void reset() { runs_ = 0; }  // to be called when the memory or the job is another

 private:
  int64_t runs_ = 0, first_ = 0, run_tiles_ = 0, tiles_ = 0;  // of the chunk that the addresses are for
};

}  // namespace
}  // namespace blockenc
