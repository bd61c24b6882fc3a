// What happens to values between the transpositions: ByteMap, NibbleMap, ScaleMap, WideMap and FloatMap. They
// work on columns; a column holds one position of many blocks, so that all its values have the same flips,
// the same substitution table and the same channel.
//
// A map offers
//   columns            how many columns it needs in scratch memory, beside those of the input
//   prepare(scratch)   fills them, for some groups of blocks
//   vectors            of an output column
//   reader()           a function (index, group's scratch memory, vectors) that makes the output column
//   `index` line_flip(line)    a function of a vector of the output line, applied just before it is stored
//
// Included by transposition-inl.h, after row_tiling-inl.h.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../values.h"
#include "floats-inl.h"
#include "nearest_bytes-inl.h"

namespace blockenc {
namespace {

// How many blocks are a group: as many as a vector has values of the smallest type that a column of them
// holds. Those of 16 bits become bytes on their way (HalfMap).
constexpr int group_blocks(int in_item, int out_item) {
  return Vector::bytes / std::min(in_item == 2 ? 1 : in_item, out_item);
}

// Where an input column begins in a group's scratch memory, from its number.
inline int64_t column_start(const BlockLayout& in, const BlockLayout& out, int column) {
  return int64_t{column} * group_blocks(in.item, out.item) * in.item;
}

// Scratch memory for some groups of blocks, `bytes` bytes for each.
struct Scratch {
  char* memory;
  int64_t bytes, groups;
};

// Which block of its group each item of a column belongs to, in the columns of the input or of the output:
// the inverse of what the transposition does.
inline std::vector<int> blocks_of_column(const BlockLayout& layout, int group) {
  const int lane_items = kLane / layout.item, lanes = Vector::bytes / kLane;
  std::vector<int> blocks(group);
  for (int n = 0; n < group; ++n) {
    const int vector = n / (lane_items * lanes), lane = n / lane_items % lanes, in_lane = n % lane_items;
    // The vector of the line that the item was in before the transposition.
    const int line_vector = vector * layout.columns + in_lane % layout.columns;
    blocks[n] = (line_vector * lanes + lane) * layout.blocks + in_lane / layout.columns;
  }
  return blocks;
}

// For each item of an output column, the item of an input column that belongs to the same block.
inline std::vector<int> column_order(const BlockLayout& in, const BlockLayout& out) {
  const int group = group_blocks(in.item, out.item);
  const std::vector<int> in_block = blocks_of_column(in, group), out_block = blocks_of_column(out, group);
  std::vector<int> item_of(group), order(group);
  for (int n = 0; n < group; ++n) item_of[in_block[n]] = n;
  for (int n = 0; n < group; ++n) order[n] = item_of[out_block[n]];
  return order;
}

// Calls f(index, p) for each column of the output; p is the position that it holds, -1 if none.
template <class F>
void each_column(const BlockLayout& out, F&& f) {
  for (int line = 0, index = 0; line < out.lines; ++line) {
    for (int column = 0; column < out.columns; ++column, ++index) f(index, out.position(line, column));
  }
}

struct Identity {
  Vector::type operator()(Vector::type x) const { return x; }
};

// Bytes to bytes. What has a substitution table is looked up column by column, in scratch memory. Complements
// are an XOR with 0xff, of whole lines just before they are stored.
class ByteMap {
 public:
  static constexpr int vectors = 1;
  int columns = 0;

  ByteMap(const BlockLayout& in, const BlockLayout& out, const Plan& plan)
      : from_(out.lines * out.columns), flips_(from_.size()), xor_mask_(out.lines * kLane) {
    const LookupTables<U8> tables(plan);
    const int in_columns = in.lines * in.columns;
    std::vector<int> looked_up(plan.length, -1);  // the column with the looked-up values, of each position
    std::vector<int> readers(plan.length);        // how many output positions read an input position
    for (int p = 0; p < plan.length; ++p) ++readers[plan.source[p]];
    each_column(out, [&](int index, int p) {
      if (p < 0) return;
      bool complement;
      const int table = table_of(tables.table(p), &complement);
      const int source = in.column_of(plan.source[p]);
      if (table < 0) {
        from_[index] = column_start(in, out, source);
      } else {
        if (looked_up[p] < 0) {  // in place, unless another position reads the same column
          looked_up[p] = readers[plan.source[p]] == 1 ? source : in_columns + columns++;
          lookups_[table].push_back({column_start(in, out, source), column_start(in, out, looked_up[p])});
        }
        from_[index] = column_start(in, out, looked_up[p]);
      }
      flips_[index] = complement ? 0xff : 0;
      const int line = index / out.columns, column = index % out.columns;
      for (int b = 0; complement && b < out.blocks; ++b) {
        xor_mask_[line * kLane + b * out.lane_pitch() + column] = 0xff;
      }
    });
  }

  void prepare(const Scratch scratch) const {
    for (size_t t = 0; t < lookups_.size(); ++t) {
      const Vector::Table table(tables_.data() + t * kByteValues);
      const Lookup* const end = lookups_[t].data() + lookups_[t].size();
      char* at = scratch.memory;
      for (int64_t g = 0; g < scratch.groups; ++g, at += scratch.bytes) {
#pragma GCC unroll 4
        for (const Lookup* lookup = lookups_[t].data(); lookup < end; ++lookup) {
          Vector::store(at + lookup->to, Vector::lookup(table, Vector::load(at + lookup->from)));
        }
      }
    }
  }

  auto reader() const {
    const int64_t* offsets = from_.data();
    return [=](int index, const char* scratch, Vector::type(&to)[1]) {
      to[0] = Vector::load(scratch + offsets[index]);
    };
  }

  auto line_flip(int line) const {
    return [mask = Vector::broadcast(xor_mask_.data() + line * kLane)](Vector::type x) {
      return Vector::exclusive_or(x, mask);
    };
  }

 protected:
  // An output column, complemented already.
  Vector::type column(int index, const char* scratch) const {
    return Vector::exclusive_or(Vector::load(scratch + from_[index]), Vector::splat(flips_[index]));
  }

 private:
  struct Lookup {
    int64_t from, to;
  };

  // The number of the table that holds these values or their complements, made if there is none; -1 for the
  // identity, which needs no table.
  int table_of(const uint8_t* values, bool* complement) {
    const int count = static_cast<int>(lookups_.size());
    for (int t = -1; t < count; ++t) {
      auto same = [&](int mask) {
        for (int v = 0; v < kByteValues; ++v) {
          if (values[v] != ((t < 0 ? v : tables_[t * kByteValues + v]) ^ mask)) return false;
        }
        return true;
      };
      *complement = same(0xff);
      if (*complement || same(0)) return t;
    }
    tables_.insert(tables_.end(), values, values + kByteValues);
    lookups_.emplace_back();
    return count;
  }

  std::vector<int64_t> from_;      // of each output column: where its values lie in a group's scratch memory
  std::vector<uint8_t> flips_;     // of each output column: 0xff where it is complemented
  std::vector<uint8_t> xor_mask_;  // [line][kLane]: the same, of bytes
  std::vector<uint8_t> tables_;    // [table][256]
  std::vector<std::vector<Lookup>> lookups_;  // by each table
};

// Bytes to bytes, where their halves are moved and flipped on their own. Substitution tables are not for it.
class NibbleMap {
 public:
  static constexpr int vectors = 1;
  static constexpr int columns = 0;

  NibbleMap(const BlockLayout& in, const BlockLayout& out, const Plan& plan)
      : columns_(out.lines * out.columns), xor_mask_(out.lines * kLane) {
    each_column(out, [&](int index, int p) {
      if (p < 0) return;
      auto half = [&](int cell) {
        return Half{in.column_of(cell % plan.length) * Vector::bytes, cell < plan.length ? 0 : 4};
      };
      columns_[index] = {half(plan.source[p]), half(plan.source[plan.length + p])};
      const int mask = (plan.flips[p] & 1 ? 0x0f : 0) | (plan.flips[plan.length + p] & 1 ? 0xf0 : 0);
      const int line = index / out.columns, column = index % out.columns;
      for (int b = 0; b < out.blocks; ++b) {
        xor_mask_[line * kLane + b * out.lane_pitch() + column] = static_cast<uint8_t>(mask);
      }
    });
  }

  void prepare(const Scratch&) const {}

  auto reader() const {
    const Column* columns = columns_.data();
    const auto low_half = Vector::splat(0x0f), high_half = Vector::splat(0xf0);
    return [=](int index, const char* scratch, Vector::type(&to)[1]) {
      const Column& column = columns[index];
      const auto low = Vector::shift_right(Vector::load(scratch + column.low.from), column.low.shift);
      const auto high = Vector::shift_left(Vector::load(scratch + column.high.from), 4 - column.high.shift);
      to[0] = Vector::bitwise_or(Vector::bitwise_and(low, low_half), Vector::bitwise_and(high, high_half));
    };
  }

  auto line_flip(int line) const {
    return [mask = Vector::broadcast(xor_mask_.data() + line * kLane)](Vector::type x) {
      return Vector::exclusive_or(x, mask);
    };
  }

 private:
  struct Half {
    int from;   // where its column lies in a group's scratch memory
    int shift;  // of the half in its byte: 0 or 4 bits
  };
  struct Column {
    Half low, high;
  };
  std::vector<Column> columns_;    // of the output
  std::vector<uint8_t> xor_mask_;  // [line][kLane]
};

// The place of every item of an output column in the input column, of bytes or of what HalfMap makes them of,
// for Vector::permute.
template <class Place>
std::array<uint8_t, Vector::bytes> byte_order(const BlockLayout& in, const BlockLayout& out, Place&& place) {
  const std::vector<int> order = column_order(in, out);
  std::array<uint8_t, Vector::bytes> from;
  for (int n = 0; n < Vector::bytes; ++n) {
    from[place(n)] = static_cast<uint8_t>(in.item == 1 ? order[n] : nearest_byte_place(order[n]));
  }
  return from;
}

// What a byte becomes as a float of a channel: a number computed from it, in few vector instructions.
template <class Out>
class Scale;

// (k / 255 - mean) / std.
template <>
class Scale<F32> {
 public:
  Scale(const Plan& plan, int channel) : std_(plan.std[channel]), mean_(plan.mean[channel]) {}
  float operator()(float k) const { return std_.divide(top_.divide(k) - mean_); }

 private:
  // Divides by multiplying with a reciprocal in two parts. Only the sum of the products is rounded, so that
  // nearly every quotient is the one of a division, which takes several times as long.
  struct Divisor {
    float high, low;
    explicit Divisor(float value)
        : high(1 / value), low(static_cast<float>(1 / static_cast<double>(value) - high)) {}
    float divide(float v) const { return __builtin_fmaf(v, high, v * low); }
  };
  Divisor top_{kByteValues - 1}, std_;
  float mean_;
};

// k / 255, rounded.
template <class Half>
class Scale {
  static constexpr int kShift = InFloat<Half>::shift;
  static constexpr float kStep = 1 / (InFloat<Half>::factor * (kByteValues - 1));

 public:
  Scale(const Plan&, int) {}
  uint16_t operator()(float k) const {
    return static_cast<uint16_t>((float_bits(k * kStep) + (1u << (kShift - 1))) >> kShift);
  }
};

// Bytes to floats by a Scale, after what ByteMap does to them.
template <class Out>
class ScaleMap : ByteMap {
  using Storage = typename Out::Storage;

 public:
  static constexpr int vectors = sizeof(Storage);
  using ByteMap::columns, ByteMap::prepare;

  // Whether that is what the plan makes of every byte, to the last bit.
  static bool fits(const Plan& plan) {
    if (plan.in_values != kByteValues || plan.out_values != kByteValues) return false;
    for (int k = 0; k < kByteValues * plan.channels; ++k) {
      const Storage computed = Scale<Out>(plan, k / kByteValues)(static_cast<float>(k % kByteValues));
      const Storage wanted = Out::store(plan.output[k]);
      if (std::memcmp(&computed, &wanted, sizeof computed) != 0) return false;
    }
    return true;
  }

  ScaleMap(const BlockLayout& in, const BlockLayout& out, const Plan& plan)
      : ByteMap(in, out, plan),
        channels_(out.lines * out.columns),
        order_(byte_order(in, out, [](int n) { return n; })) {
    for (int c = 0; c < plan.channels; ++c) scales_.push_back(Scale<Out>(plan, c));
    each_column(out, [&](int index, int p) {
      if (p >= 0) channels_[index] = p % plan.channels;
    });
  }

  Identity line_flip(int) const { return {}; }

  auto reader() const {
    return [this](int index, const char* scratch, Vector::type(&to)[vectors]) {
      alignas(Vector::bytes) uint8_t bytes[Vector::bytes];
      alignas(Vector::bytes) Storage floats[Vector::bytes];
      Vector::store(bytes, Vector::permute(column(index, scratch), order_.data()));
      const Scale<Out> scale = scales_[channels_[index]];
      for (int n = 0; n < Vector::bytes; ++n) floats[n] = scale(static_cast<float>(bytes[n]));
      for (int v = 0; v < vectors; ++v) to[v] = Vector::load(floats + v * (Vector::bytes / vectors));
    };
  }

 private:
  std::vector<Scale<Out>> scales_;  // of each channel
  std::vector<int> channels_;       // of each output column
  std::array<uint8_t, Vector::bytes> order_;
};

// Bytes to wider types. Each byte of a result is a table lookup of its own.
template <class Out>
class WideMap {
 public:
  static constexpr int vectors = sizeof(typename Out::Storage);
  static constexpr int columns = 0;

  WideMap(const BlockLayout& in, const BlockLayout& out, const Plan& plan)
      : columns_(out.lines * out.columns), order_(byte_order(in, out, interleaved_place)) {
    const LookupTables<Out> tables(plan);
    std::vector<const typename Out::Storage*> known;
    each_column(out, [&](int index, int p) {
      if (p < 0) return;
      size_t t = 0;
      while (t < known.size() && known[t] != tables.table(p)) ++t;
      if (t == known.size()) {
        known.push_back(tables.table(p));
        for (int b = 0; b < vectors; ++b) {
          for (int v = 0; v < kByteValues; ++v) {
            uint8_t bytes[vectors];
            std::memcpy(bytes, tables.table(p) + v, vectors);
            tables_.push_back(bytes[b]);
          }
        }
      }
      columns_[index] = {column_start(in, out, in.column_of(plan.source[p])),
                         static_cast<int64_t>(t) * vectors * kByteValues};
    });
  }

  void prepare(const Scratch&) const {}
  Identity line_flip(int) const { return {}; }

  auto reader() const {
    return [this](int index, const char* scratch, Vector::type(&to)[vectors]) { read(index, scratch, to); };
  }

 private:
  void read(int index, const char* scratch, Vector::type (&to)[vectors]) const {
    const auto in = Vector::permute(Vector::load(scratch + columns_[index].from), order_.data());
    for (int b = 0; b < vectors; ++b) {
      const Vector::Table table(tables_.data() + columns_[index].table + b * kByteValues);
      to[b] = Vector::lookup(table, in);
    }
    interleave(to);
  }

  // Interleaving gives result n from this place of the vectors of single bytes.
  static int interleaved_place(int n) {
    const int lane_results = kLane / vectors;
    const int vector = n / (Vector::bytes / vectors), lane = n / lane_results % (Vector::bytes / kLane);
    return lane * kLane + vector * lane_results + n % lane_results;
  }

  static void interleave(Vector::type (&x)[2]) {
    const auto low = Vector::interleave_lower<1>(x[0], x[1]);
    x[1] = Vector::interleave_upper<1>(x[0], x[1]);
    x[0] = low;
  }
  static void interleave(Vector::type (&x)[4]) {
    Vector::type front[2] = {x[0], x[1]}, back[2] = {x[2], x[3]};
    interleave(front);
    interleave(back);
    for (int k = 0; k < 2; ++k) {
      x[2 * k] = Vector::interleave_lower<2>(front[k], back[k]);
      x[2 * k + 1] = Vector::interleave_upper<2>(front[k], back[k]);
    }
  }

  struct Column {
    int64_t from, table;
  };
  std::vector<Column> columns_;
  std::array<uint8_t, Vector::bytes> order_;
  std::vector<uint8_t> tables_;  // [table][byte of the result][256]
};

// float16 and bfloat16 to wider types than bytes, where they become bytes in between: what Map does to these.
template <class In, class Map>
class HalfMap : Map {
 public:
  using Map::vectors, Map::columns, Map::line_flip, Map::reader;

  HalfMap(const BlockLayout& in, const BlockLayout& out, const Plan& plan)
      : Map(in, out, plan), in_columns_(in.lines * in.columns) {}

  // The bytes of a column take the first half of its place.
  void prepare(const Scratch scratch) const {
    for (int64_t g = 0; g < scratch.groups; ++g) {
      char* column = scratch.memory + g * scratch.bytes;
      for (int k = 0; k < in_columns_; ++k, column += 2 * Vector::bytes) {
        Vector::store(column, nearest_bytes_of<In>(column));
      }
    }
    Map::prepare(scratch);
  }

 private:
  const int in_columns_;
};

// Floats to anything, one after the other, in loops that the compiler vectorises.
template <class In, class Out>
class FloatMap {
 public:
  static constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  static constexpr int kGroup = group_blocks(in_bytes, out_bytes);
  static constexpr int vectors = kGroup * out_bytes / Vector::bytes;
  static constexpr int columns = 0;

  FloatMap(const BlockLayout& in, const BlockLayout& out, const Plan& plan)
      : plan_(plan),
        tables_(plan, plan.flags & kNearest),
        negatives_(plan),
        columns_(out.lines * out.columns),
        order_(column_order(in, out)) {
    each_column(out, [&](int index, int p) {
      if (p >= 0) columns_[index] = {column_start(in, out, in.column_of(plan.source[p])), p};
    });
  }

  void prepare(const Scratch&) const {}
  Identity line_flip(int) const { return {}; }

  auto reader() const {
    return [this](int index, const char* scratch, Vector::type(&to)[vectors]) { read(index, scratch, to); };
  }

 private:
  // Not inlined: it is long, there are many callers, and the call takes little of its time.
  __attribute__((noinline)) void read(int index, const char* scratch, Vector::type (&to)[vectors]) const {
    const auto* in = reinterpret_cast<const typename In::Storage*>(scratch + columns_[index].from);
    typename Out::Storage out[kGroup] = {};
    transform_floats<In, Out>(
        plan_, tables_, negatives_, columns_[index].position, kGroup,
        [&](int64_t n) { return in[in_bytes == out_bytes ? n : order_[n]]; },
        [&](int64_t n, auto v) { out[n] = v; });
    for (int v = 0; v < vectors; ++v) to[v] = Vector::load(reinterpret_cast<char*>(out) + v * Vector::bytes);
  }

  struct Column {
    int64_t from;
    int position;
  };
  const Plan& plan_;
  LookupTables<Out> tables_;
  Negatives<In> negatives_;
  std::vector<Column> columns_;
  std::vector<int> order_;
};

// Whether integers are looked up a vector at a time. All others are looked up one by one, for which columns
// are of no use.
template <class In, class Out>
constexpr bool kByteLookups = std::is_same_v<In, U8> && std::is_same_v<Out, U8>;
template <class In, class Out>
constexpr bool kWideLookups = std::is_same_v<In, U8> && sizeof(typename Out::Storage) > 1;

// Calls f(map) with the type of the map that a plan gets, in a MapType.
template <class Map>
struct MapType {
  using type = Map;
};
template <class Out, class F>
void with_wide_map(const Plan& plan, F&& f) {
  if constexpr (!kInteger<Out> && !Vector::has_fast_lookup) {
    if (ScaleMap<Out>::fits(plan)) return f(MapType<ScaleMap<Out>>());
  }
  f(MapType<WideMap<Out>>());
}
template <class In, class Out, class F>
void with_map(const Plan& plan, F&& f) {
  if constexpr (kByteLookups<In, Out>) {
    f(MapType<ByteMap>());
  } else if constexpr (kWideLookups<In, Out>) {
    with_wide_map<Out>(plan, f);
  } else {
    if constexpr (sizeof(typename In::Storage) == 2 && sizeof(typename Out::Storage) > 1) {
      if (becomes_nearest_bytes(plan)) {
        return with_wide_map<Out>(plan,
                                  [&](auto map) { f(MapType<HalfMap<In, typename decltype(map)::type>>()); });
      }
    }
    f(MapType<FloatMap<In, Out>>());
  }
}

}  // namespace
}  // namespace blockenc
