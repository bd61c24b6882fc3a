// NEON (every 64-bit ARM): vectors of one lane, look-ups in four tables of 64 bytes.

#if defined(__aarch64__)

#include <arm_neon.h>

#include "kernels.h"
#include "values.h"

namespace blockenc {
namespace {

struct Vector {
  using type = uint8x16_t;
  static constexpr int bytes = 16, unroll = 4, lane = 16, narrow_lane = 16;
  static constexpr bool streams = false, wide_lookups = true;
  static type load(const void* from) { return vld1q_u8(static_cast<const uint8_t*>(from)); }
  static void store(void* to, type x) { vst1q_u8(static_cast<uint8_t*>(to), x); }
  static type load(const void* low, const void* high) {
    return vcombine_u8(vld1_u8(static_cast<const uint8_t*>(low)), vld1_u8(static_cast<const uint8_t*>(high)));
  }
  static void store(void* low, void* high, type x) {
    vst1_u8(static_cast<uint8_t*>(low), vget_low_u8(x));
    vst1_u8(static_cast<uint8_t*>(high), vget_high_u8(x));
  }
  static void stream(void* to, type x) { store(to, x); }  // no such intrinsic
  static void fence() {}
  static void prefetch(const void*) {}
  struct Control {
    uint8_t from[16];  // an index beyond both gives 0
    Control(const int16_t* source, int) {
      for (int j = 0; j < 16; ++j) from[j] = static_cast<uint8_t>(source[j]);
    }
  };
  static type shuffle(type a, type b, const Control& control) {
    return vqtbl2q_u8(uint8x16x2_t{{a, b}}, load(control.from));
  }
  static type either(type a, type b) { return vorrq_u8(a, b); }
  static type exclusive_or(type a, type b) { return veorq_u8(a, b); }
  static type select(type mask, type a, type b) { return vbslq_u8(mask, a, b); }
  struct Table {
    uint8x16x4_t quarter[4];
    explicit Table(const uint8_t* bytes) {
      for (int k = 0; k < 4; ++k) quarter[k] = vld1q_u8_x4(bytes + 64 * k);
    }
  };
  // An index beyond a table gives 0, and of the four only one is within.
  static type lookup(const Table& table, type x) {
    type sum = vqtbl4q_u8(table.quarter[0], x);
    for (int k = 1; k < 4; ++k) {
      x = vsubq_u8(x, vdupq_n_u8(64));
      sum = vorrq_u8(sum, vqtbl4q_u8(table.quarter[k], x));
    }
    return sum;
  }
  template <int n>
  static type spread(type x) {
    return x;
  }
  static void interleave(type (&x)[2]) {
    const type low = vzip1q_u8(x[0], x[1]);
    x[1] = vzip2q_u8(x[0], x[1]);
    x[0] = low;
  }
  static void interleave(type (&x)[4]) {
    type front[2] = {x[0], x[1]}, back[2] = {x[2], x[3]};
    interleave(front);
    interleave(back);
    for (int k = 0; k < 2; ++k) {
      const uint16x8_t a = vreinterpretq_u16_u8(front[k]), b = vreinterpretq_u16_u8(back[k]);
      x[2 * k] = vreinterpretq_u8_u16(vzip1q_u16(a, b));
      x[2 * k + 1] = vreinterpretq_u8_u16(vzip2q_u16(a, b));
    }
  }
};

}  // namespace
}  // namespace blockenc

#include "lines.h"

namespace blockenc {

std::unique_ptr<const Kernel> make_neon(const Plan& plan, Type in, Type out, const Rows& rows) {
  return make_lines(plan, in, out, rows);
}

}  // namespace blockenc

#endif
