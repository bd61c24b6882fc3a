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

// The value types: how a number is loaded from memory and stored. Storage is its type in memory.
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

// Calls f(In{}, Out{}) with the value types of a job.
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

// What is stored for the integer k in this channel.
template <class Out>
typename Out::Storage stored_integer(const Plan& plan, int channel, int k) {
  if constexpr (kInteger<Out>) {
    return Out::store(k);
  } else {
    return Out::store(plan.output[channel * plan.out_values + k]);
  }
}

// What becomes of every integer, from load to store, as lookup tables: one for each (flip, substitution
// table, channel) that occurs, and which of them each position takes; position p of variant v has the number
// v * L + p. flips: whether the tables flip integers; they do not where floats are flipped before they become
// integers, nor where the halves of bytes are.
template <class Out>
class LookupTables {
 public:
  explicit LookupTables(const Plan& plan, bool flips = true)
      : values_(plan.in_values), start_(plan.positions()) {
    const int channels = kInteger<Out> ? 1 : plan.channels;  // integers are stored alike in all channels
    std::vector<int> start_of((plan.table_count + 1) * 2 * channels, -1);
    for (int64_t p = 0; p < plan.positions(); ++p) {
      const int flip = flips ? plan.flips[p] & 1 : 0,
                channel = static_cast<int>(p % plan.channels) % channels;
      int& start = start_of[(plan.table_of[p] * 2 + flip) * channels + channel];
      if (start < 0) {
        start = static_cast<int>(entries_.size());
        for (int v = 0; v < values_; ++v) {
          const int k = flip ? std::max(kByteValues - 1 - v, 0) : v;
          entries_.push_back(stored_integer<Out>(plan, channel, substitute(plan, plan.table_of[p], k)));
        }
      }
      start_[p] = start;
    }
  }

  const typename Out::Storage* table(int64_t p) const { return entries_.data() + start_[p]; }
  int last_value() const { return values_ - 1; }

 private:
  int values_;
  std::vector<int> start_;  // of each position's table, in entries_
  std::vector<typename Out::Storage> entries_;
};

}  // namespace blockenc
