// Division by a number that is known on the host, for kernels: a product and a shift in its place.

#pragma once

#include <cstdint>

#include "../plan.h"

namespace blockenc {

// Divides numbers below 2^31 by a number from 1 to 2^31 - 1 (Granlund and Montgomery, "Division by Invariant
// Integers using Multiplication", 1994): with s the least number such that 2^s >= number, and the factor
// 2^(31 + s) / number rounded up, n / number is n * factor / 2^(31 + s) rounded down.
struct Divisor {
  uint32_t number, factor;
  int shift;

  Divisor() = default;
  explicit Divisor(int64_t divisor) : number(static_cast<uint32_t>(divisor)), shift(0) {
    while (uint64_t{1} << shift < number) ++shift;
    factor = static_cast<uint32_t>(((uint64_t{1} << (31 + shift)) + number - 1) / number);
  }
  BLOCKENC_INLINE int divide(int n) const {
    return static_cast<int>(static_cast<uint32_t>(uint64_t{2 * static_cast<uint32_t>(n)} * factor >> 32) >>
                            shift);
  }
  BLOCKENC_INLINE int remainder(int n) const { return n - divide(n) * static_cast<int>(number); }
};

}  // namespace blockenc
