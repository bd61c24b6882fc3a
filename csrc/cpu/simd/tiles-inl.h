// The mover of square tiles of bytes: for block scrambling, rotations, whole channels shuffled, and whatever
// is negated on the way.
//
// A block is cut into *tiles* of 16 x 16 bytes, or of 8 x 8: of a channel if the image is planar, else of its
// pixel rows as they are. Where each tile of the output is one tile of the input, turned in one of eight ways
// (or not at all), a tile is turned in registers and XORed with a mask.
//
// Included by kernels-inl.h.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "blocks-inl.h"
#include "transposition-inl.h"

namespace blockenc {
namespace {

template <int side>
constexpr std::array<uint8_t, kLane> reversed_rows() {
  std::array<uint8_t, kLane> from{};
  for (int k = 0; k < kLane; ++k) from[k] = static_cast<uint8_t>(k / side * side + side - 1 - k % side);
  return from;
}

template <int side>
class TileMover {
 public:
  struct Offsets : Pitch {
    Offsets(const Planes&, const Pitch& pitch) : Pitch(pitch) {}
  };

  static std::unique_ptr<const TileMover> make(const Plan& plan, const Planes& planes) {
    if (planes.m % side || planes.columns % side || plan.flags & kNibbles || substitutes(plan))
      return nullptr;
    auto mover = std::make_unique<TileMover>(plan, planes);
    return mover->is_complete() ? std::move(mover) : nullptr;
  }

  TileMover(const Plan& plan, const Planes& planes) : plan_(plan), planes_(planes), masks_(2 * side * side) {
    std::fill(masks_.begin() + side * side, masks_.end(), uint8_t{0xff});
    for (int plane = 0; plane < planes.count; ++plane) {
      for (int row = 0; row < planes.m; row += side) {
        for (int column = 0; column < planes.columns; column += side) places_.push_back({plane, row, column});
      }
    }
    block_tiles_ = static_cast<int>(places_.size());
    tiles_.reserve(int64_t{plan.variants} * block_tiles_);
    for (int64_t v = 0; v < plan.variants; ++v) {
      for (int t = 0; t < block_tiles_; ++t) {
        if (!add_tile(v * plan.length, t)) return;
      }
    }
  }

  bool is_complete() const {
    return static_cast<int64_t>(tiles_.size()) == int64_t{plan_.variants} * block_tiles_;
  }

  void move(int64_t variant, const char* from, const Offsets& in, char* to, const Offsets& out) const {
    const Tile* tile = tiles_.data() + variant * block_tiles_;
    for (int t = 0; t < block_tiles_; ++t, ++tile) {
      const char* const at = from + tile->plane * in.plane + tile->row * in.row + tile->column;
      char* const there = to + places_[t].plane * out.plane + places_[t].row * out.row + places_[t].column;
      const uint8_t* const mask = masks_.data() + tile->mask;
      if (tile->transposes) {
        tile->reverses_columns
            ? move_tile<true, true>(at, tile->reverses_rows, in.row, there, out.row, mask)
            : move_tile<true, false>(at, tile->reverses_rows, in.row, there, out.row, mask);
      } else {
        tile->reverses_columns
            ? move_tile<false, true>(at, tile->reverses_rows, in.row, there, out.row, mask)
            : move_tile<false, false>(at, tile->reverses_rows, in.row, there, out.row, mask);
      }
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
    const int row = planes_.row(corner) / side * side, column = planes_.column(corner) / side * side;
    tile.reverses_rows = planes_.row(corner) != row;
    tile.reverses_columns = planes_.column(corner) != column;
    tile.plane = planes_.plane(corner);
    tile.row = row;
    tile.column = column;
    std::vector<uint8_t> mask(side * side);
    int64_t ones = 0;
    for (int i = 0; i < side; ++i) {
      for (int j = 0; j < side; ++j) {
        int r = tile.transposes ? j : i, c = tile.transposes ? i : j;
        if (tile.reverses_rows) r = side - 1 - r;
        if (tile.reverses_columns) c = side - 1 - c;
        if (source(i, j) != planes_.position(tile.plane, row + r, column + c)) return false;
        const bool flips = plan_.flips[start + position(i, j)] & 1;
        mask[i * side + j] = flips ? 0xff : 0;
        ones += flips;
      }
    }
    const int64_t bytes = side * side;
    if (ones == 0 || ones == bytes) {
      tile.mask = ones;  // the two that all tiles share, one behind the other
    } else {
      tile.mask = static_cast<int64_t>(masks_.size());
      masks_.insert(masks_.end(), mask.begin(), mask.end());
    }
    tiles_.push_back(tile);
    return true;
  }

  // A lane holds a row of 16 bytes, or two of 8.
  template <bool transposes, bool reverses_columns>
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
  const Planes planes_;
  int block_tiles_ = 0;
  std::vector<Place> places_;   // of the tiles of a block of the output
  std::vector<Tile> tiles_;     // [variant][tile]
  std::vector<uint8_t> masks_;  // of whole tiles
};

}  // namespace
}  // namespace blockenc
