// The mover of small blocks: of up to 64 bytes, in any order, each block in another. A block is a table, in
// which the plan's permutation is looked up: of bytes, or one of low halves and one of high ones.
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

// part: the bytes of a line (BlockLayout).
template <int part, bool nibbles>
class PermutationMover {
  // Above the number of a byte, which has 6 bits: that its high half is meant; that it is flipped.
  static constexpr int kHighHalf = 0x40, kFlipped = 0x80;
  static constexpr int kMaxBytes = 64, kMaxLines = kMaxBytes / part, kLaneLines = kLane / part;

 public:
  // Where the lines of a block are.
  struct Offsets {
    int64_t lines[kMaxLines];

    Offsets(const Planes& planes, const Pitch& pitch) {
      int64_t* line = lines;
      planes.layout.each_line(
          [&](int plane, int row, int item) { *line++ = plane * pitch.plane + row * pitch.row + item; });
    }
  };

  static std::unique_ptr<const PermutationMover> make(const Plan& plan, const Planes& planes) {
    const BlockLayout layout = planes.layout;
    const int bytes = layout.lines * part;
    if (layout.columns != part || bytes > kMaxBytes || bytes % kLane || substitutes(plan) ||
        nibbles != static_cast<bool>(plan.flags & kNibbles)) {
      return nullptr;
    }
    return std::make_unique<PermutationMover>(plan, layout);
  }

  PermutationMover(const Plan& plan, const BlockLayout& layout)
      : lanes_(layout.lines * part / kLane),
        bytes_(lanes_ * kLane),
        permutations_(plan.variants * stride() + Vector::bytes) {
    for (int64_t v = 0; v < plan.variants; ++v) {
      const int32_t* source = plan.source + v * plan.cells;
      const uint8_t* flips = plan.flips + v * plan.cells;
      uint8_t* const permutation = permutations_.data() + v * stride();
      for (int k = 0; k < stride(); ++k) {
        const int cell = layout.position(k % bytes_ / part, k % part) + (k < bytes_ ? 0 : plan.length);
        permutation[k] = static_cast<uint8_t>(layout.column_of(source[cell] % plan.length) |
                                              (source[cell] < plan.length ? 0 : kHighHalf) |
                                              (flips[cell] & 1 ? kFlipped : 0));
      }
    }
  }

  void move(int64_t variant, const char* from, const Offsets& in, char* to, const Offsets& out) const {
    switch (lanes_) {
      case 1:
        return move_lanes<1>(variant, from, in, to, out);
      case 2:
        return move_lanes<2>(variant, from, in, to, out);
      case 3:
        return move_lanes<3>(variant, from, in, to, out);
      default:
        return move_lanes<4>(variant, from, in, to, out);
    }
  }

 private:
  int64_t stride() const { return (nibbles ? 2 : 1) * int64_t{bytes_}; }

  template <int lanes>
  void move_lanes(int64_t variant, const char* from, const Offsets& in, char* to, const Offsets& out) const {
    constexpr int bytes = lanes * kLane;
    Lane::type block[lanes];
#pragma GCC unroll 4
    for (int k = 0; k < lanes; ++k) {
      const int64_t* lines = in.lines + k * kLaneLines;
      block[k] = load_lane<part>([=](int n) { return from + lines[n]; });
    }
    const uint8_t* const permutation = permutations_.data() + variant * stride();
#pragma GCC unroll 4
    for (int k = 0; k < bytes; k += Vector::bytes) {
      const auto index = Vector::load(permutation + k);
      auto x = Vector::lookup_in(block, index);
      if constexpr (nibbles) {
        const auto high_index = Vector::load(permutation + bytes + k);
        const auto y = Vector::lookup_in(block, high_index);
        const auto low = Vector::choose(is_high(index), Vector::shift_right(x, 4), x);
        const auto high = Vector::choose(is_high(high_index), y, Vector::shift_left(y, 4));
        x = Vector::bitwise_or(flipped(low, 0x0f, index), flipped(high, 0xf0, high_index));
      } else {
        x = flipped(x, 0xff, index);
      }
      store<lanes>(k / kLane, x, to, out, Lanes());
    }
  }

  // As Vector::choose asks it: kHighHalf in the place of the top bit.
  static Vector::type is_high(Vector::type index) { return Vector::shift_left(index, 1); }

  // The bits of `mask` of every byte, flipped where its index says so.
  static Vector::type flipped(Vector::type x, int mask, Vector::type index) {
    const auto bits = Vector::splat(mask);
    x = Vector::bitwise_and(x, bits);
    return Vector::choose(index, Vector::exclusive_or(x, bits), x);
  }

  // Stores a vector as the lanes of a block from number `first` on, as far as it has them.
  template <int lanes, int... lane>
  static void store(int first, Vector::type x, char* to, const Offsets& out,
                    std::integer_sequence<int, lane...>) {
    auto store_one = [&](int k, Lane::type one) {
      const int64_t* lines = out.lines + k * kLaneLines;
      if (k < lanes) store_lane<part>([=](int n) { return to + lines[n]; }, one);
    };
    (store_one(first + lane, Vector::lane<lane>(x)), ...);
  }

  int lanes_, bytes_;  // of a block
  // [variant]: which bytes of a block its bytes are taken from, or their low halves and then their high ones.
  // A vector more, since they are loaded by whole vectors.
  std::vector<uint8_t> permutations_;
};

}  // namespace
}  // namespace blockenc
