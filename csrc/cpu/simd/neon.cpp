// NEON (every 64-bit ARM): vectors of one lane, a table lookup is four, in tables of 64 bytes.

#if defined(__aarch64__)

#include <arm_neon.h>

#include "target.h"

namespace blockenc {
namespace {

// 16 bytes, which are a whole vector.
struct Lane {
  using type = uint8x16_t;
  static type load(const void* from) { return vld1q_u8(static_cast<const uint8_t*>(from)); }
  static void store(void* to, type x) { vst1q_u8(static_cast<uint8_t*>(to), x); }
  template <int bytes>
  static type load_part(const void* from) {
    if constexpr (bytes == 16) return load(from);
    uint64_t part = 0;
    std::memcpy(&part, from, bytes % 16);
    return vreinterpretq_u8_u64(vsetq_lane_u64(part, vdupq_n_u64(0), 0));
  }
  template <int bytes>
  static void store_part(void* to, type x) {
    if constexpr (bytes == 16) return store(to, x);
    const uint64_t part = vgetq_lane_u64(vreinterpretq_u64_u8(x), 0);
    std::memcpy(to, &part, bytes % 16);
  }
  template <int bytes>
  static type shift_down(type x) {
    return vextq_u8(x, vdupq_n_u8(0), bytes);
  }
  static type shuffle_bytes(type x, type from) { return vqtbl1q_u8(x, from); }
  template <int size>
  static type interleave_lower(type a, type b) {
    if constexpr (size == 1) return vzip1q_u8(a, b);
    if constexpr (size == 2) {
      return vreinterpretq_u8_u16(vzip1q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
    }
    if constexpr (size == 4) {
      return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
    }
    if constexpr (size == 8) {
      return vreinterpretq_u8_u64(vzip1q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
    }
  }
  template <int size>
  static type interleave_upper(type a, type b) {
    if constexpr (size == 1) return vzip2q_u8(a, b);
    if constexpr (size == 2) {
      return vreinterpretq_u8_u16(vzip2q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
    }
    if constexpr (size == 4) {
      return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
    }
  }
  static type splat(int byte) { return vdupq_n_u8(static_cast<uint8_t>(byte)); }
  static type exclusive_or(type a, type b) { return veorq_u8(a, b); }
  static type choose(type top_bits, type a, type b) {
    return vbslq_u8(vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(top_bits), 7)), a, b);
  }
  static type bitwise_and(type a, type b) { return vandq_u8(a, b); }
  static type bitwise_or(type a, type b) { return vorrq_u8(a, b); }
  static type shift_left(type x, int bits) { return vshlq_u8(x, vdupq_n_s8(static_cast<int8_t>(bits))); }
  static type shift_right(type x, int bits) { return vshlq_u8(x, vdupq_n_s8(static_cast<int8_t>(-bits))); }
};

struct Vector : Lane {
  static constexpr int bytes = 16, max_part_bytes = 16;
  static constexpr bool has_stream = false, has_fast_lookup = true, has_fast_permute = false;
  template <int>
  static type load_parts(const char* const* parts, int64_t offset) {
    return load(parts[0] + offset);
  }
  template <int>
  static void store_parts(char* const* parts, int64_t offset, type x) {
    store(parts[0] + offset, x);
  }
  static void stream(void* to, type x) { store(to, x); }  // NEON has no intrinsic for it
  static void fence() {}
  static void prefetch(const void*) {}
  static type broadcast(const void* lane) { return load(lane); }
  static type from_lanes(const type (&x)[1]) { return x[0]; }
  template <int>
  static type lane(type x) {
    return x;
  }
  struct Table {
    uint8x16x4_t quarter[4];
    explicit Table(const uint8_t* bytes) {
      for (int k = 0; k < 4; ++k) quarter[k] = vld1q_u8_x4(bytes + 64 * k);
    }
  };
  // An index beyond its table gives 0, and an index is inside one of the four tables only.
  static type lookup(const Table& table, type x) {
    type sum = vqtbl4q_u8(table.quarter[0], x);
    for (int k = 1; k < 4; ++k) {
      x = vsubq_u8(x, vdupq_n_u8(64));
      sum = vorrq_u8(sum, vqtbl4q_u8(table.quarter[k], x));
    }
    return sum;
  }
  template <int lanes>
  static type lookup_in(const type (&table)[lanes], type index) {
    index = bitwise_and(index, splat(63));
    if constexpr (lanes == 1) return vqtbl1q_u8(table[0], index);
    if constexpr (lanes == 2) return vqtbl2q_u8({table[0], table[1]}, index);
    if constexpr (lanes == 3) return vqtbl3q_u8({table[0], table[1], table[2]}, index);
    if constexpr (lanes == 4) return vqtbl4q_u8({table[0], table[1], table[2], table[3]}, index);
  }
  static type permute(type x, const uint8_t* from) { return vqtbl1q_u8(x, load(from)); }
};

}  // namespace
}  // namespace blockenc

#include "kernels-inl.h"
BLOCKENC_DEFINE_MAKE(neon)

#endif
