// float16 and bfloat16 as bits: IEEE 754 conversions, to nearest, ties to even.

#pragma once

#include <cstdint>
#include <cstring>

#include "plan.h"

namespace blockenc {

BLOCKENC_HOST_DEVICE inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

BLOCKENC_HOST_DEVICE inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

BLOCKENC_HOST_DEVICE inline float bf16_to_float(uint16_t bits) { return bits_float(uint32_t{bits} << 16); }

BLOCKENC_HOST_DEVICE inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// Without branches, so that loops become vectors: every case is computed, and one chosen (by a mask: of
// conditional expressions in a row compilers make branches).
BLOCKENC_HOST_DEVICE inline uint32_t choose(bool first, uint32_t a, uint32_t b) {
  const uint32_t mask = 0u - static_cast<uint32_t>(first);
  return (a & mask) | (b & ~mask);
}

BLOCKENC_HOST_DEVICE inline float f16_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half} >> 15 << 31;
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t special = 0x7f800000u | (magnitude & 0x3ffu) << 13;
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t subnormal =
      float_bits(static_cast<float>(static_cast<int32_t>(magnitude)) * 5.9604644775390625e-8f);  // 2^-24
  return bits_float(sign |
                    choose(magnitude >= 0x7c00u, special, choose(magnitude >= 0x0400u, normal, subnormal)));
}

BLOCKENC_HOST_DEVICE inline uint16_t float_to_f16(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  // Below 2^-14 the result is subnormal, a multiple of 2^-24: adding 0.5 rounds to just that.
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t special = choose(magnitude > 0x7f800000u, 0x7e00u, 0x7c00u);  // NaN; beyond 65504
  return static_cast<uint16_t>(
      sign | choose(magnitude >= 0x477ff000u, special, choose(magnitude >= 0x38800000u, normal, subnormal)));
}

}  // namespace blockenc
