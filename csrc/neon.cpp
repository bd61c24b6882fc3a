// NEON (every 64-bit ARM): vectors of one lane, look-ups in four tables of 64 bytes.

#if defined(__aarch64__)

#include <arm_neon.h>

#include "kernels.h"
#include "values.h"

namespace blockenc {
namespace {

struct Vector {
  using type = uint8x16_t;
  static constexpr int bytes = 16;
  static type zero() { return vdupq_n_u8(0); }
  static type load(const void* from) { return vld1q_u8(static_cast<const uint8_t*>(from)); }
  static void store(void* to, type x) { vst1q_u8(static_cast<uint8_t*>(to), x); }
  static type broadcast(const uint8_t* lane) { return vld1q_u8(lane); }
  static void stream16(void* to, const void* from) { store(to, load(from)); }  // no such intrinsic
  static void fence() {}
  static type shuffle(type x, type control) { return vqtbl1q_u8(x, control); }
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
};

}  // namespace
}  // namespace blockenc

#include "lines.h"

namespace blockenc {

void run_neon(const Job& job, int64_t first, int64_t last) { run_vectors(job, first, last); }

}  // namespace blockenc

#endif
