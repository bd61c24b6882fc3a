// From blocks to columns and back: what the kernels that work on columns have in common.
//
// A *column* holds the values that one position of a block has in many blocks. Once a group of blocks lies in
// columns, shuffling the blocks is only reading the columns in another order, and all values of a column have
// the same flips and the same substitution table, whatever M, the layout and the steps are.
//
// One transposition takes as many vectors of one line (BlockLayout) as that has columns, and makes as many
// columns, of one vector each. Together the lanes of these vectors hold all blocks of a group; or a part of
// the group, if the values are wider than those of the other side. For vectors a and b, interleave_lower(a,
// b) and interleave_upper(a, b) interleave the values of half a lane each. Done log2(columns) times, that
// exchanges the number of a value in its lane with the number of its vector, as in the well-known
// transposition of a matrix of 16 x 16 bytes. The same function goes from columns to lines.
//
// Included by columns-inl.h and groups-inl.h, after `Vector` is defined.

#pragma once

#include <utility>

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

// Part number n of a lane, `part` bytes, is at at(n).
template <int part, int bytes = kLane, int first = 0, class At>
inline __attribute__((always_inline)) Lane::type load_lane(At&& at) {
  if constexpr (part == bytes) {
    return Lane::load_part<part>(at(first));
  } else {
    constexpr int half = bytes / 2;
    return Lane::interleave_lower<half>(load_lane<part, half, first>(at),
                                        load_lane<part, half, first + half / part>(at));
  }
}

template <int part, int bytes = kLane, int first = 0, class At>
inline __attribute__((always_inline)) void store_lane(At&& at, Lane::type x) {
  if constexpr (part == bytes) {
    Lane::store_part<part>(at(first), x);
  } else {
    constexpr int half = bytes / 2;
    store_lane<part, half, first>(at, x);
    store_lane<part, half, first + half / part>(at, Lane::shift_down<half>(x));
  }
}

// The same for a vector in `count` parts, at parts[0] + offset, parts[1] + offset, and so on.
template <int count, int... lane>
inline __attribute__((always_inline)) Vector::type load_vector(const char* const* parts, int64_t offset,
                                                               std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  if constexpr (count <= lanes) {
    return Vector::load_parts<count>(parts, offset);
  } else {
    const Lane::type x[lanes] = {
        load_lane<Vector::bytes / count>([=](int n) { return parts[lane * count / lanes + n] + offset; })...};
    return Vector::from_lanes(x);
  }
}

template <int count, int... lane>
inline __attribute__((always_inline)) void store_vector(char* const* parts, int64_t offset, Vector::type x,
                                                        std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  if constexpr (count <= lanes) {
    Vector::store_parts<count>(parts, offset, x);
  } else {
    (store_lane<Vector::bytes / count>([=](int n) { return parts[lane * count / lanes + n] + offset; },
                                       Vector::lane<lane>(x)),
     ...);
  }
}
using Lanes = std::make_integer_sequence<int, Vector::bytes / kLane>;

// Two orders of the bytes of a vector, for Vector::permute. Lines that leave the last items of their lanes
// unused lie in memory side by side without these: one order opens the gaps between them, one closes them.
struct LaneGaps {
  uint8_t open[Vector::bytes], close[Vector::bytes] = {};

  explicit LaneGaps(const BlockLayout& layout) {
    const int used = std::min<int>(layout.blocks * layout.items * layout.item, kLane);
    for (int byte = 0; byte < Vector::bytes; ++byte) {
      open[byte] = static_cast<uint8_t>(byte / kLane * used + byte % kLane);
      if (byte / used * kLane < Vector::bytes) {
        close[byte] = static_cast<uint8_t>(byte / used * kLane + byte % used);
      }
    }
  }
};

// The two passes over groups of blocks, which lie in parts of equal size: from lines to columns, and from
// columns to lines.
template <class In, class Out>
class Transposer {
 public:
  static constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  static constexpr int kGroup = group_blocks(in_bytes, out_bytes);
  static constexpr int in_vectors = kGroup * in_bytes / Vector::bytes;  // of a column
  static constexpr int out_vectors = kGroup * out_bytes / Vector::bytes;

  const BlockLayout in, out;

  Transposer(const BlockLayout& in, const BlockLayout& out)
      : in(in),
        out(out),
        to_columns_order_(
            in_bytes, in.columns * in.blocks,
            [&](int t) { return t % in.blocks * in.lane_pitch() + std::min(t / in.blocks, in.items - 1); }),
        from_columns_order_(out_bytes, out.columns * out.blocks,
                            [&](int t) { return t % out.blocks * out.columns + t / out.blocks; }),
        compact_order_(out_bytes, out.segments > 1 ? 0 : out.blocks * out.items,
                       [&](int t) { return t / out.items * out.columns + t % out.items; }),
        in_gaps_(in),
        out_gaps_(out) {}

  // Both, compiled for the numbers of columns and parts of a job.
  template <class Map>
  struct Passes {
    void (Transposer::*to_columns)(const char* const*, const int64_t*, Scratch, Traffic) const;
    void (Transposer::*from_columns)(const Map&, Scratch, char* const*, const int64_t*, Traffic) const;
  };

  // in_part, out_part: the bytes of a part in the input and in the output, one of RowTiling's.
  template <class Map>
  Passes<Map> passes(int in_part, int out_part) const {
    return chosen<Map>([&](auto item, bool output, auto&& f) {
      const int part = output ? out_part : in_part;
      return with_columns<item.value>(output ? out.columns : in.columns, [&](auto n) {
        if constexpr (Vector::has_fast_permute && item.value == 1) {
          if (part == Vector::bytes) return f(n, std::integral_constant<int, 1>());
        }
        if constexpr (Vector::max_part_bytes > kLane) {
          if (part > kLane) return f(n, std::integral_constant<int, Vector::bytes / (2 * kLane)>());
        }
        return f(n, std::integral_constant<int, Vector::bytes / kLane>());
      });
    });
  }

  // For blocks that lie anywhere: a part is one line of one block.
  template <class Map>
  Passes<Map> passes_of_single_blocks() const {
    return chosen<Map>([&](auto item, bool output, auto&& f) {
      return with_columns<item.value>(output ? out.columns : in.columns, [&](auto n) {
        return f(n, std::integral_constant<int, Vector::bytes / (n.value * item.value)>());
      });
    });
  }

  // From the input to columns. at: where the parts of the groups' tiles begin in their first lines.
  template <int n, int parts>
  void to_columns(const char* const* at, const int64_t* lines, const Scratch scratch,
                  const Traffic traffic) const {
    const auto order = to_columns_order_.load();
    const LaneGaps gaps = in_gaps_;
    const int count = in.lines;
    for (int line = 0; line < count; ++line) {
      const int64_t offset = lines[line];
      char* to = scratch.memory + line * (n * in_vectors * Vector::bytes);
      const char* const* from = at;
      for (int64_t g = 0; g < scratch.groups; ++g, to += scratch.bytes) {
        for (int v = 0; v < in_vectors; ++v, from += n * parts) {
          typename Vector::type x[n];
#pragma GCC unroll 16
          for (int k = 0; k < n; ++k) {
            x[k] = load_vector<parts>(from + k * parts, offset, Lanes());
            if (has_gaps<parts>) x[k] = Vector::permute(x[k], gaps.open);
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
  template <class Map, int n, int parts>
  void from_columns(const Map& map, const Scratch scratch, char* const* at, const int64_t* lines,
                    const Traffic traffic) const {
    const auto order = from_columns_order_.load(), compact_order = compact_order_.load();
    const bool compacts =
        n * out_bytes < kLane && (has_gaps<parts> || parts * kLane == Vector::bytes) && !out.dense();
    const LaneGaps gaps = out_gaps_;
    const int count = out.lines;
    const auto read = map.reader();
    for (int line = 0; line < count; ++line) {
      const int64_t offset = lines[line];
      const auto flip = map.line_flip(line);
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
            auto line = flip(x[v][k]);
            if (has_gaps<parts>) line = Vector::permute(line, gaps.close);
            store_vector<parts>(to + k * parts, offset, line, Lanes());
          }
        }
      }
      traffic.step();
    }
  }

 private:
  // Whether the lanes of a part have unused items, which are not in memory: only such parts are longer than
  // max_part_bytes.
  template <int parts>
  static constexpr bool has_gaps = parts == 1 && Vector::bytes > Vector::max_part_bytes;

  // Calls f(columns) with a constant for the number of columns of a line.
  template <int item, class F>
  static auto with_columns(int columns, F&& f) {
    if constexpr (item < 2) {
      if (columns == 16) return f(std::integral_constant<int, 16>());
    }
    if constexpr (item < 4) {
      if (columns == 8) return f(std::integral_constant<int, 8>());
    }
    if (columns == 4) return f(std::integral_constant<int, 4>());
    if (columns == 2) return f(std::integral_constant<int, 2>());
    return f(std::integral_constant<int, 1>());
  }

  // choose(size of a value, whether it is the output, f) calls f(columns, parts of a vector) with constants.
  template <class Map, class Choose>
  static Passes<Map> chosen(Choose&& choose) {
    return {choose(std::integral_constant<int, in_bytes>(), false,
                   [](auto n, auto parts) { return &Transposer::template to_columns<n.value, parts.value>; }),
            choose(std::integral_constant<int, out_bytes>(), true, [](auto n, auto parts) {
              return &Transposer::template from_columns<Map, n.value, parts.value>;
            })};
  }

  LaneOrder to_columns_order_;    // in a lane of a line: [blocks][items] to [columns][blocks]
  LaneOrder from_columns_order_;  // in a lane of a column: [blocks][columns] to [columns][blocks]
  LaneOrder compact_order_;       // in a lane of a line: [blocks][columns] to [blocks][items]
  LaneGaps in_gaps_, out_gaps_;
};

}  // namespace
}  // namespace blockenc
