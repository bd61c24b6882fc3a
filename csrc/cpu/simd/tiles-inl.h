// The kernel of plans that move square tiles of bytes: block scrambling, rotations, whole channels shuffled,
// and whatever is negated on the way. It is for plans of several variants, whose blocks may move.
//
// A block is cut into *tiles* of 16 x 16 bytes, or of 8 x 8 where it has no larger ones: of a channel if the
// image is planar, else of its pixel rows as they are. Where each tile of the output is one tile of the
// input, turned in one of eight ways (or not at all), a tile is read where it lies, turned in registers,
// XORed with a mask, and written. A chunk of the output is put together in a staging buffer that fits in the
// first-level cache, and then written as a whole: in the order of memory and, if it is large, past the
// caches.
//
// Included by kernels-inl.h.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "row_tiling-inl.h"

namespace blockenc {
namespace {

constexpr int64_t kMaxTileChunkBytes = 16 * 1024;

// Where the values of an image are, for what takes them as bytes in planes: a plane is a channel; interleaved
// there is one, whose rows hold pixels whole.
struct Planes {
  int count, m, columns;  // of a block: pixel rows, and bytes of one
  bool planar;
  int channels;

  Planes(const Plan& plan, bool planar)
      : count(planar ? plan.channels : 1),
        m(plan.block_size),
        columns(planar ? m : m * plan.channels),
        planar(planar),
        channels(plan.channels) {}

  int position(int plane, int row, int column) const {
    return planar ? (row * m + column) * channels + plane : row * columns + column;
  }
  int plane(int p) const { return planar ? p % channels : 0; }
  int row(int p) const { return p / channels / m; }
  int column(int p) const { return planar ? p / channels % m : p % columns; }
};

// The blocks of a job: which block of the input, and which variant, a block of the output is made of.
struct BlockMap {
  const int32_t *moves, *variant;  // of the image's key; null without a grid
  int64_t key;

  BlockMap(const Plan& plan, int64_t image) : key(plan.images ? plan.key_of_image[image] : 0) {
    moves = plan.grid_rows ? plan.moves + key * plan.blocks() : nullptr;
    variant = plan.grid_rows ? plan.variant + key * plan.blocks() : nullptr;
  }
  int64_t from(int64_t g) const { return moves ? moves[g] : g; }
  int64_t variant_of(int64_t g) const { return variant ? variant[g] : key; }
};

template <int side>
constexpr std::array<uint8_t, kLane> reversed_rows() {
  std::array<uint8_t, kLane> from{};
  for (int k = 0; k < kLane; ++k) from[k] = static_cast<uint8_t>(k / side * side + side - 1 - k % side);
  return from;
}

class TileKernel : public Kernel {
 public:
  // Null unless the plan is of this kind.
  static std::unique_ptr<const Kernel> make(const Plan& plan, bool planar) {
    const Planes planes(plan, planar);
    for (const int side : {16, 8}) {
      if (planes.m % side || planes.columns % side) continue;
      auto kernel = std::make_unique<TileKernel>(plan, planes, side);
      if (kernel->is_complete()) return kernel;
    }
    return nullptr;
  }

  TileKernel(const Plan& plan, const Planes& planes, int side)
      : plan_(plan), planes_(planes), side_(side), masks_(2 * side * side) {
    std::fill(masks_.begin() + side * side, masks_.end(), uint8_t{0xff});
    for (int plane = 0; plane < planes.count; ++plane) {
      for (int row = 0; row < planes.m; row += side) {
        for (int column = 0; column < planes.columns; column += side) places_.push_back({plane, row, column});
      }
    }
    block_tiles_ = static_cast<int>(places_.size());
    const bool looks_up =
        std::any_of(plan.table_of, plan.table_of + plan.positions(), [](int t) { return t; });
    if (looks_up || plan.flags & kNibbles) return;
    tiles_.reserve(int64_t{plan.variants} * block_tiles_);
    for (int64_t v = 0; v < plan.variants; ++v) {
      for (int t = 0; t < block_tiles_; ++t) {
        if (!add_tile(v * plan.length, t)) return;
      }
    }
    still_ = true;
    for (int64_t k = 0; k < plan.keys; ++k) {
      for (int64_t g = 0; g < plan.blocks(); ++g) still_ = still_ && plan.moves[k * plan.blocks() + g] == g;
    }
  }

  bool is_complete() const {
    return static_cast<int64_t>(tiles_.size()) == int64_t{plan_.variants} * block_tiles_;
  }

  void run(const Job& job, int64_t first, int64_t last) const override {
    if (side_ == 16) {
      run_tiles<16>(job, first, last);
    } else {
      run_tiles<8>(job, first, last);
    }
  }

 private:
  struct Tile {
    int32_t plane, row, column;  // where it begins in the block of the input
    // How it is turned: rows are reversed, then columns, then the two are exchanged.
    bool reverses_rows, reverses_columns, transposes;
    int64_t mask;  // where its mask begins in masks_
  };
  struct Place {
    int plane, row, column;
  };

  // Adds tile number t of the variant whose positions begin at `start`; false if it is no tile of the input.
  bool add_tile(int64_t start, int t) {
    const Place to = places_[t];
    auto position = [&](int row, int column) {
      return planes_.position(to.plane, to.row + row, to.column + column);
    };
    auto source = [&](int row, int column) { return plan_.source[start + position(row, column)]; };
    const int corner = source(0, 0), below = source(1, 0);
    Tile tile{};
    tile.transposes = planes_.row(corner) == planes_.row(below);
    const int row = planes_.row(corner) / side_ * side_, column = planes_.column(corner) / side_ * side_;
    tile.reverses_rows = planes_.row(corner) != row;
    tile.reverses_columns = planes_.column(corner) != column;
    tile.plane = planes_.plane(corner);
    tile.row = row;
    tile.column = column;
    std::vector<uint8_t> mask(side_ * side_);
    int64_t ones = 0;
    for (int i = 0; i < side_; ++i) {
      for (int j = 0; j < side_; ++j) {
        int r = tile.transposes ? j : i, c = tile.transposes ? i : j;
        if (tile.reverses_rows) r = side_ - 1 - r;
        if (tile.reverses_columns) c = side_ - 1 - c;
        if (source(i, j) != planes_.position(tile.plane, row + r, column + c)) return false;
        const bool flips = plan_.flips[start + position(i, j)] & 1;
        mask[i * side_ + j] = flips ? 0xff : 0;
        ones += flips;
      }
    }
    const int64_t bytes = side_ * side_;
    if (ones == 0 || ones == bytes) {
      tile.mask = ones;  // the two that all tiles share, one behind the other
    } else {
      tile.mask = static_cast<int64_t>(masks_.size());
      masks_.insert(masks_.end(), mask.begin(), mask.end());
    }
    tiles_.push_back(tile);
    return true;
  }

  // Bytes from one plane to the next, and from one pixel row.
  struct Pitch {
    int64_t plane, row;
  };

  // The memory that a thread works in, kept for its next call.
  struct Workspace {
    PrefetchQueue prefetches;  // of the input, a block row ahead or an image
    WriteQueue writes;         // of the chunk before, from its staging buffer
    std::vector<char> memory;  // of two staging buffers
  };

  // Queues a part of the input: the same of every pixel row of a block row.
  void queue_prefetches(const char* in, const Pitch& pitch, int64_t bytes, PrefetchQueue* queue) const {
    each_run(pitch, pitch, bytes, [&](int64_t offset, int64_t, int64_t n) { queue->add(in + offset, n); });
  }

  // Queues a chunk in a staging buffer to be written to the output.
  void queue_writes(const char* from, const Pitch& in, char* to, const Pitch& out, int64_t bytes,
                    WriteQueue* queue) const {
    each_run(in, out, bytes,
             [&](int64_t offset, int64_t there, int64_t n) { queue->add(to + there, from + offset, n); });
  }

  // Calls f(offset, offset, bytes) for what lies together in a part of a block row, by two pitches.
  template <class F>
  void each_run(const Pitch& a, const Pitch& b, int64_t bytes, F&& f) const {
    const bool gapless = a.row == bytes && b.row == bytes;
    for (int c = 0; c < planes_.count; ++c) {
      for (int row = 0; row < (gapless ? 1 : planes_.m); ++row) {
        f(c * a.plane + row * a.row, c * b.plane + row * b.row, gapless ? planes_.m * bytes : bytes);
      }
    }
  }

  template <int side>
  void run_tiles(const Job& job, int64_t first, int64_t last) const {
    static thread_local Workspace kept;
    Workspace& work = kept;
    const int64_t m = planes_.m, block_rows = job.h / m, columns = job.w / m;
    const int64_t block_bytes = planes_.columns;
    const Pitch in_pitch{job.in_stride[1], job.in_stride[2]}, out_pitch{job.out_stride[1], job.out_stride[2]};
    const bool stream = Vector::has_stream && job.n * job.h * job.w * plan_.channels > kMinStreamedBytes;
    const int64_t most = std::max<int64_t>(kMaxTileChunkBytes / plan_.length / 8 * 8, 8);
    const int64_t staging_bytes = std::min(most, columns) * block_bytes * m * planes_.count;
    char* staging = aligned_room(&work.memory, 2 * staging_bytes + kCacheLine);
    char* last_staging = staging + (staging_bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
    work.writes.clear();
    work.writes.stream = true;
    const Traffic traffic{work.prefetches, work.writes};
    for (int64_t r = first; r < last; ++r) {
      const int64_t image = r / block_rows, block_row = r % block_rows;
      const BlockMap map(plan_, image);
      const char* const in = static_cast<const char*>(job.in) + image * job.in_stride[0];
      char* const out =
          static_cast<char*>(job.out) + image * job.out_stride[0] + block_row * m * out_pitch.row;
      // Blocks that stay are read soon after those above them; those that move may be read at any time.
      const int64_t ahead = still_ ? r + 1 : r + block_rows;
      for (int64_t begin = 0, end = 0; begin < columns; begin = end) {
        end = std::min(begin + most, columns);
        const int64_t bytes = (end - begin) * block_bytes;
        const Pitch staging_pitch{bytes * m, bytes};
        const Pitch& pitch = stream ? staging_pitch : out_pitch;
        char* to = stream ? staging : out + begin * block_bytes;
        work.prefetches.clear();
        if (stream && ahead < last) {
          queue_prefetches(static_cast<const char*>(job.in) + ahead / block_rows * job.in_stride[0] +
                               ahead % block_rows * m * in_pitch.row + begin * block_bytes,
                           in_pitch, bytes, &work.prefetches);
        }
        work.prefetches.set_steps(end - begin);
        work.writes.set_steps(end - begin);
        for (int64_t b = begin; b < end; ++b, to += block_bytes) {
          const int64_t g = block_row * columns + b, from = map.from(g);
          const char* const block = in + from / columns * m * in_pitch.row + from % columns * block_bytes;
          move_block<side>(map.variant_of(g), block, in_pitch, to, pitch);
          traffic.step();
        }
        work.writes.finish();
        work.writes.clear();
        if (stream) {
          queue_writes(staging, staging_pitch, out + begin * block_bytes, out_pitch, bytes, &work.writes);
          std::swap(staging, last_staging);
        }
      }
    }
    work.writes.finish();
    if (stream) Vector::fence();
  }

  template <int side>
  void move_block(int64_t variant, const char* from, const Pitch& in, char* to, const Pitch& out) const {
    const Tile* tile = tiles_.data() + variant * block_tiles_;
    for (int t = 0; t < block_tiles_; ++t, ++tile) {
      const char* const at = from + tile->plane * in.plane + tile->row * in.row + tile->column;
      char* const there = to + places_[t].plane * out.plane + places_[t].row * out.row + places_[t].column;
      const uint8_t* const mask = masks_.data() + tile->mask;
      if (tile->transposes) {
        tile->reverses_columns
            ? move_tile<side, true, true>(at, tile->reverses_rows, in.row, there, out.row, mask)
            : move_tile<side, true, false>(at, tile->reverses_rows, in.row, there, out.row, mask);
      } else {
        tile->reverses_columns
            ? move_tile<side, false, true>(at, tile->reverses_rows, in.row, there, out.row, mask)
            : move_tile<side, false, false>(at, tile->reverses_rows, in.row, there, out.row, mask);
      }
    }
  }

  // A lane holds a row of 16 bytes, or two of 8.
  template <int side, bool transposes, bool reverses_columns>
  static void move_tile(const char* from, bool reverses_rows, int64_t in_row, char* to, int64_t out_row,
                        const uint8_t* mask) {
    constexpr int lanes = side * side / kLane;
    if (reverses_rows) {
      from += (side - 1) * in_row;
      in_row = -in_row;
    }
    static constexpr std::array<uint8_t, kLane> order = reversed_rows<side>();
    const auto reversal = Lane::load(order.data());
    Lane::type x[lanes];
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) {
      if constexpr (side == kLane) {
        x[k] = Lane::load(from + k * in_row);
      } else {
        x[k] = Lane::interleave_lower<8>(Lane::load_part<8>(from + 2 * k * in_row),
                                         Lane::load_part<8>(from + (2 * k + 1) * in_row));
      }
      if (reverses_columns) x[k] = Lane::shuffle_bytes(x[k], reversal);
    }
    if constexpr (transposes) transpose_tile(x);
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) {
      x[k] = Lane::exclusive_or(x[k], Lane::load(mask + k * kLane));
      if constexpr (side == kLane) {
        Lane::store(to + k * out_row, x[k]);
      } else {
        Lane::store_part<8>(to + 2 * k * out_row, x[k]);
        Lane::store_part<8>(to + (2 * k + 1) * out_row, Lane::shift_down<8>(x[k]));
      }
    }
  }

  static void transpose_tile(Lane::type (&x)[16]) { transpose<Lane, 1>(x); }

  // 8 x 8. Interleaving moves bits of a byte's address: of four vectors with two rows each, (number of the
  // vector, place in it) is (r2 r1, r0 c2 c1 c0) for row r and column c at first. Interleaving the vectors
  // whose numbers differ in one bit takes the top bit of the place for that bit, and puts it last.
  static void transpose_tile(Lane::type (&x)[4]) {
    transpose<Lane, 1>(x);  // (r0 c2, c1 c0 r2 r1)
    Lane::type y[4] = {x[0], x[1], x[2], x[3]};
    for (int k = 0; k < 2; ++k) {  // (c1 c2, c0 r2 r1 r0)
      x[k] = Lane::interleave_lower<1>(y[k], y[k + 2]);
      x[k + 2] = Lane::interleave_upper<1>(y[k], y[k + 2]);
    }
    std::swap(x[1], x[2]);  // (c2 c1, c0 r2 r1 r0)
  }

  const Plan& plan_;
  Planes planes_;
  int side_, block_tiles_ = 0;
  bool still_ = false;          // whether no block moves
  std::vector<Place> places_;   // of the tiles of a block of the output
  std::vector<Tile> tiles_;     // [variant][tile]
  std::vector<uint8_t> masks_;  // of whole tiles
};

}  // namespace
}  // namespace blockenc
