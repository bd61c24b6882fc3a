// What happens to one value between load and store, on host and device alike; the value types of the host.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "half.h"
#include "plan.h"

namespace blockenc {

// v, but at least 0 and at most 1; 0 if v is not a number. On the host fmaxf and fminf would be calls, which
// keep a loop from becoming vector instructions.
BLOCKENC_INLINE float clamp_unit(float v) {
#ifdef __CUDA_ARCH__
  return fminf(fmaxf(v, 0.0f), 1.0f);  // of NaN and a number, fmaxf gives the number
#else
  return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f;
#endif
}

BLOCKENC_INLINE int flip_integer(int k, bool odd) {
  return odd ? (k < kByteValues ? kByteValues - 1 - k : 0) : k;
}

// What np makes of a float as published. round(v) rounds a float to its value type.
template <class Round>
BLOCKENC_INLINE float published_negative(float v, Round round) {
  return round(1.0f - v);
}

// The same with kNearest: a byte k / 255, rounded to the value type, becomes the byte (255 - k) / 255. It
// computes both results and chooses, without branches, so that loops become vectors.
template <class Round>
BLOCKENC_INLINE float negative(float v, Round round) {
  constexpr float kTop = kByteValues - 1;
#ifdef __CUDA_ARCH__
  const float k = rintf(clamp_unit(v) * kTop);
#else  // as good, since halfway between two bytes v is neither; and an instruction where rintf may be a call
  const float k = static_cast<float>(static_cast<int32_t>(clamp_unit(v) * kTop + 0.5f));
#endif
  const float of_byte = round((kTop - k) / kTop), other = published_negative(v, round);
  return round(k / kTop) == v ? of_byte : other;
}

// The integer that a float becomes, still as a float and with a fraction that is to be cut off.
BLOCKENC_INLINE float quantise(float v, float in_scale, bool nearest) {
  const float scaled = clamp_unit(v) * in_scale;
  return nearest ? nearbyintf(scaled) : scaled;
}

// k after substitution by a table; 0 is none. read(address) gives an element of the plan's arrays, which may
// be in device memory, and may not be trusted there: table and result are checked.
template <class Read>
BLOCKENC_INLINE int substitute(const Plan& plan, int table, int k, Read read) {
  if (table > 0 && table <= plan.table_count) k = read(plan.tables + (table - 1) * plan.in_values + k);
  return k < plan.out_values ? k : plan.out_values - 1;
}

// The float that an integer k, after substitution, becomes in a channel.
template <class Read>
BLOCKENC_INLINE float float_output(const Plan& plan, int channel, int k, Read read) {
  return read(plan.output + channel * plan.out_values + k);
}

// Reads a plan in the memory of the host.
struct HostRead {
  template <class T>
  T operator()(const T* address) const {
    return *address;
  }
};

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

// Rounds a float to a value type.
template <class T>
struct RoundTo {
  float operator()(float v) const { return T::load(T::store(v)); }
};

// What is stored for an integer k in a channel, after substitution by a table.
template <class Out>
typename Out::Storage integer_output(const Plan& plan, int table, int channel, int k) {
  k = substitute(plan, table, k, HostRead());
  if constexpr (kInteger<Out>) {
    return Out::store(k);
  } else {
    return Out::store(float_output(plan, channel, k, HostRead()));
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
    std::unordered_map<int64_t, int64_t> start_of;           // by flip, substitution table and channel
    for (int64_t p = 0; p < plan.positions(); ++p) {
      const int flip = flips ? plan.flips[p] & 1 : 0,
                channel = static_cast<int>(p % plan.channels) % channels;
      const int64_t chain = (int64_t{plan.table_of[p]} * 2 + flip) * channels + channel;
      const auto [found, is_new] = start_of.try_emplace(chain, static_cast<int64_t>(entries_.size()));
      if (is_new) {
        for (int v = 0; v < values_; ++v) {
          entries_.push_back(integer_output<Out>(plan, plan.table_of[p], channel, flip_integer(v, flip)));
        }
      }
      start_[p] = found->second;
    }
  }

  const typename Out::Storage* table(int64_t p) const { return entries_.data() + start_[p]; }
  int last_value() const { return values_ - 1; }

 private:
  int values_;
  std::vector<int64_t> start_;  // of each position's table, in entries_
  std::vector<typename Out::Storage> entries_;
};

}  // namespace blockenc
