// What happens to floats between load and store.
//
// Included after a file has chosen its target, so that loops become vectors of that instruction set; in an
// unnamed namespace, so that each file has its own.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../../values.h"

namespace blockenc {
namespace {

// What np makes of every float16 or bfloat16 that stays one, by its bits: converting takes ten times longer.
// Empty where it is not asked for.
template <class T>
class Negatives {
 public:
  explicit Negatives(const Plan& plan) {
    const bool flips =
        std::any_of(plan.flips, plan.flips + plan.positions(), [](uint8_t f) { return f > 0; });
    if (sizeof(typename T::Storage) != 2 || kInteger<T> || plan.flags & kQuantises || !flips) return;
    of_.resize(1 << 16);
    for (size_t bits = 0; bits < of_.size(); ++bits) {
      const float v = static_cast<float>(T::load(static_cast<typename T::Storage>(bits)));
      const float n = plan.flags & kNearest ? negative(v, RoundTo<T>()) : published_negative(v, RoundTo<T>());
      of_[bits] = T::store(n);
    }
  }

  const typename T::Storage* of() const { return of_.data(); }

 private:
  std::vector<typename T::Storage> of_;
};

// The byte that every float16 or bfloat16 becomes, by its bits. An image has few different floats, so that
// looking them up takes less time than computing. Made at the first call, and kept; without a lock, which a
// fork might leave closed.
template <class T>
const uint8_t* nearest_bytes() {
  static std::atomic<const uint8_t*> kept{nullptr};
  const uint8_t* bytes = kept;
  if (bytes) return bytes;
  auto* const made = new uint8_t[1 << 16];
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const float value = T::load(static_cast<typename T::Storage>(bits));
    made[bits] = static_cast<uint8_t>(quantise(value, kByteValues - 1, true));
  }
  if (kept.compare_exchange_strong(bytes, made)) return made;
  delete[] made;  // another thread was first
  return bytes;
}

// Whether every float becomes the nearest byte.
inline bool becomes_nearest_bytes(const Plan& plan) {
  return plan.flags & kQuantises && plan.flags & kNearest && *plan.in_scale == kByteValues - 1;
}

// At position p (counted as in LookupTables): put(k, ...) of get(k) for each k below `count`. `tables` holds
// what becomes of quantised values. What is the same for all of them is decided outside of the loop.
template <class In, class Out, class Get, class Put>
__attribute__((flatten)) void transform_floats(const Plan& plan, const LookupTables<Out>& tables,
                                               const Negatives<In>& negatives, int64_t p, int64_t count,
                                               Get&& get, Put&& put) {
  const int channel = static_cast<int>(p % plan.channels), flips = plan.flips[p];
  // Look-ups are no vector instructions on most processors: in a loop of their own they keep none back.
  constexpr int64_t kPart = 64;
  auto flip = [](float v) { return negative(v, RoundTo<In>()); };
  auto flip_as_published = [](float v) { return published_negative(v, RoundTo<In>()); };
  auto each = [&](int64_t from, int64_t to, auto&& one_flip, auto&& value) {  // value(k, the flipped one)
    if (flips == 0) {
      for (int64_t k = from; k < to; ++k) value(k, In::load(get(k)));
    } else if (flips == 1) {
      for (int64_t k = from; k < to; ++k) value(k, one_flip(In::load(get(k))));
    } else {
      for (int64_t k = from; k < to; ++k) {
        float v = In::load(get(k));
        for (int f = 0; f < flips; ++f) v = one_flip(v);
        value(k, v);
      }
    }
  };
  if (plan.flags & kQuantises) {
    const float scale = *plan.in_scale;
    const auto* table = tables.table(p);
    if constexpr (sizeof(typename In::Storage) == 2) {
      if (becomes_nearest_bytes(plan)) {
        const uint8_t* const bytes = nearest_bytes<In>();
        for (int64_t k = 0; k < count; ++k) put(k, table[bytes[get(k)]]);
        return;
      }
    }
    int32_t at[kPart];
    for (int64_t from = 0; from < count; from += kPart) {
      const int64_t to = std::min(from + kPart, count);
      if (plan.flags & kNearest) {  // the tables flip
        for (int64_t k = from; k < to; ++k) {
          at[k - from] = static_cast<int32_t>(quantise(In::load(get(k)), scale, true));
        }
      } else {
        each(from, to, flip_as_published,
             [&](int64_t k, float v) { at[k - from] = static_cast<int32_t>(quantise(v, scale, false)); });
      }
      for (int64_t k = from; k < to; ++k) put(k, table[at[k - from]]);
    }
  } else if constexpr (!kInteger<Out>) {  // to integers without quantising: refused before a kernel runs
    auto store = [&](auto&& value) {      // value(v) is what becomes of the flipped v
      auto put_value = [&](int64_t k, float v) { put(k, Out::store(value(v))); };
      if constexpr (sizeof(typename In::Storage) == 2) {
        const typename In::Storage* const of = negatives.of();
        typename In::Storage part[kPart];
        for (int64_t from = 0; from < count; from += kPart) {
          const int64_t size = std::min(kPart, count - from);
          for (int64_t k = 0; k < size; ++k) part[k] = get(from + k);
          for (int f = 0; f < flips; ++f) {
            for (int64_t k = 0; k < size; ++k) part[k] = of[part[k]];
          }
          for (int64_t k = 0; k < size; ++k) put_value(from + k, In::load(part[k]));
        }
      } else if (plan.flags & kNearest) {
        each(0, count, flip, put_value);
      } else {
        each(0, count, flip_as_published, put_value);
      }
    };
    if (plan.flags & kNormalises) {
      const float mean = plan.mean[channel], std = plan.std[channel];
      store([=](float v) { return (v - mean) / std; });
    } else {
      store([](float v) { return v; });
    }
  }
}

}  // namespace
}  // namespace blockenc
