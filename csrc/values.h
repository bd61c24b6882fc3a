// The value types, and what happens to one value between load and store.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "half.h"
#include "plan.h"

namespace blockenc {

// How a value type is loaded as, and stored from, a number.
struct U8 {
  static constexpr Type type = Type::u8;
  using Storage = uint8_t;
  static int load(uint8_t v) { return v; }
  static uint8_t store(int v) { return static_cast<uint8_t>(v); }
};
struct U16 {
  static constexpr Type type = Type::u16;
  using Storage = uint16_t;
  static int load(uint16_t v) { return v; }
  static uint16_t store(int v) { return static_cast<uint16_t>(v); }
};
struct F32 {
  static constexpr Type type = Type::f32;
  using Storage = float;
  static float load(float v) { return v; }
  static float store(float v) { return v; }
};
struct F16 {
  static constexpr Type type = Type::f16;
  using Storage = uint16_t;
  static float load(uint16_t v) { return f16_to_float(v); }
  static uint16_t store(float v) { return float_to_f16(v); }
};
struct BF16 {
  static constexpr Type type = Type::bf16;
  using Storage = uint16_t;
  static float load(uint16_t v) { return bf16_to_float(v); }
  static uint16_t store(float v) { return float_to_bf16(v); }
};

// Calls f(In{}, Out{}) with value types.
template <class F>
void with_types(Type in_type, Type out_type, F&& f) {
  auto with = [](Type type, auto&& g) {
    switch (type) {
      case Type::u8:
        return g(U8{});
      case Type::u16:
        return g(U16{});
      case Type::f32:
        return g(F32{});
      case Type::f16:
        return g(F16{});
      case Type::bf16:
        return g(BF16{});
    }
  };
  with(in_type, [&](auto in) { with(out_type, [&](auto out) { f(in, out); }); });
}

template <class T>
constexpr bool kInteger = std::is_same_v<T, U8> || std::is_same_v<T, U16>;

inline int substitute(const Plan& plan, int table, int k) {
  return table ? plan.tables[(table - 1) * plan.in_values + k] : std::min(k, plan.out_values - 1);
}

// The integer k at a position of this channel, as it is stored.
template <class Out>
typename Out::Storage finish(const Plan& plan, int channel, int k) {
  if constexpr (kInteger<Out>) {
    return Out::store(k);
  } else {
    return Out::store(plan.output[channel * plan.out_values + k]);
  }
}

// All that happens to an integer between load and store, as tables: one row for each distinct
// (flip, table, channel), and the row of each position. flips: whether the values have yet to be flipped.
template <class Out>
class IntegerRows {
 public:
  explicit IntegerRows(const Plan& plan, bool flips = true) : values_(plan.in_values), row_of_(plan.length) {
    const int channels = kInteger<Out> ? 1 : plan.channels;  // without an output stage all are alike
    std::vector<int> row_at((plan.table_count + 1) * 2 * channels, -1);
    for (int p = 0; p < plan.length; ++p) {
      const int flip = flips ? plan.flips[p] & 1 : 0, channel = p % plan.channels % channels;
      int& row = row_at[(plan.table_of[p] * 2 + flip) * channels + channel];
      if (row < 0) {
        row = static_cast<int>(rows_.size());
        for (int v = 0; v < values_; ++v) {
          const int k = flip ? std::max(kByteValues - 1 - v, 0) : v;
          rows_.push_back(finish<Out>(plan, channel, substitute(plan, plan.table_of[p], k)));
        }
      }
      row_of_[p] = row;
    }
  }

  const typename Out::Storage* row(int p) const { return rows_.data() + row_of_[p]; }
  int last_value() const { return values_ - 1; }

 private:
  int values_;
  std::vector<int> row_of_;
  std::vector<typename Out::Storage> rows_;
};

}  // namespace blockenc
