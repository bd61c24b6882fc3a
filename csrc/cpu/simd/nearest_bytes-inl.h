// The nearest bytes of vectors of float16 and bfloat16.
//
// Included by value_maps-inl.h, after row_tiling-inl.h.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../../values.h"

namespace blockenc {
namespace {

// A vector as numbers, for the compiler's arithmetic on vectors.
using Halves = int16_t __attribute__((vector_size(Vector::bytes)));
using Words = uint32_t __attribute__((vector_size(Vector::bytes)));
using Floats = float __attribute__((vector_size(Vector::bytes)));
template <class To, class From>
inline To bits_as(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// How the bits of a float16 or bfloat16 lie in those of a float32: shifted up, and as a number that many
// times too small.
template <class Half>
struct InFloat {
  static constexpr int shift = std::is_same_v<Half, F16> ? 13 : 16;
  static constexpr float factor = std::is_same_v<Half, F16> ? 0x1p112f : 1.0f;
};

// In nearest_bytes_of: the place of the byte of float number n.
constexpr int nearest_byte_place(int n) {
  constexpr int kHalf = kLane / 2, lanes = Vector::bytes / kLane;
  return n / kHalf % lanes * kLane + n / kHalf / lanes * kHalf + n % kHalf;
}

// The nearest bytes of as many float16 or bfloat16 as a vector has bytes, as quantise() gives them.
template <class T>
inline Vector::type nearest_bytes_of(const char* from) {
  constexpr bool kF16 = std::is_same_v<T, F16>;
  // A subnormal float16 may be 0 as a float32, but its byte is 0 in any case.
  constexpr float kTop = InFloat<T>::factor * (kByteValues - 1);
  constexpr int16_t kOne = kF16 ? 0x3c00 : 0x3f80, kInfinity = kF16 ? 0x7c00 : 0x7f80;
  // What is added to a number below 2^23 leaves its nearest integer in the lower bits.
  constexpr float kRounds = 0x1p23f;
  alignas(kLane) static constexpr uint8_t kLowBytes[4][kLane] = {
      {0, 4, 8, 12, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128},
      {128, 128, 128, 128, 0, 4, 8, 12, 128, 128, 128, 128, 128, 128, 128, 128},
      {128, 128, 128, 128, 128, 128, 128, 128, 0, 4, 8, 12, 128, 128, 128, 128},
      {128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 0, 4, 8, 12}};
  const Vector::type zero = Vector::splat(0);
  Vector::type bytes = zero;
  for (int v = 0; v < 2; ++v) {
    // Compared as integers, a negative float is below 0, and what is not a number above infinity.
    const Halves bits = bits_as<Halves>(Vector::load(from + v * Vector::bytes));
    const Halves top = bits > kOne ? Halves{} + kOne : bits;
    const Halves clamped = (top > 0 ? top : Halves{}) & (bits <= kInfinity);
    const auto x = bits_as<Vector::type>(clamped);
    const Vector::type halves[2] = {Vector::interleave_lower<2>(zero, x),
                                    Vector::interleave_upper<2>(zero, x)};
    for (int k = 0; k < 2; ++k) {
      const Floats value = bits_as<Floats>(bits_as<Words>(halves[k]) >> (16 - InFloat<T>::shift));
      const auto rounded = bits_as<Vector::type>(value * kTop + kRounds);
      bytes =
          Vector::bitwise_or(bytes, Vector::shuffle_bytes(rounded, Vector::broadcast(kLowBytes[2 * v + k])));
    }
  }
  return bytes;
}

}  // namespace
}  // namespace blockenc
