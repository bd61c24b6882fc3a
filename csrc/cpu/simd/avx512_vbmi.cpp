// AVX-512 with VBMI (Ice Lake, Zen 4 and later): vectors of four lanes; a table lookup is two byte
// permutations.

#if defined(__x86_64__) && defined(__GNUC__)

// GCC 12 warns of uninitialised variables in its own intrinsics, which return undefined vectors on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include "target.h"
BLOCKENC_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512vbmi")
#include "x86-inl.h"

namespace blockenc {
namespace {

struct Vector : X86 {
  using type = __m512i;
  static constexpr int bytes = 64;
  static constexpr bool has_fast_lookup = true, has_fast_permute = true;
  static type load(const void* from) { return _mm512_loadu_si512(from); }
  static void store(void* to, type x) { _mm512_storeu_si512(to, x); }
  // By halves: on Zen 4 two loads or stores of 32 bytes take as long as one of 64.
  template <int count>
  static type load_parts(const char* const* parts, int64_t offset) {
    if constexpr (count == 1) return load(parts[0] + offset);
    __m256i half[2];
    for (int h = 0; h < 2; ++h) {
      if constexpr (count == 2) {
        half[h] = load_pair(parts[h] + offset);
      } else {
        half[h] = load_two_lanes(parts[2 * h] + offset, parts[2 * h + 1] + offset);
      }
    }
    return _mm512_inserti64x4(_mm512_castsi256_si512(half[0]), half[1], 1);
  }
  template <int count>
  static void store_parts(char* const* parts, int64_t offset, type x) {
    if constexpr (count == 1) return store(parts[0] + offset, x);
    const __m256i half[2] = {_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)};
    for (int h = 0; h < 2; ++h) {
      if constexpr (count == 2) {
        store_pair(parts[h] + offset, half[h]);
      } else {
        store_two_lanes(parts + 2 * h, offset, half[h]);
      }
    }
  }
  static type from_lanes(const Lane::type (&x)[4]) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(x[1], x[0])),
                              _mm256_set_m128i(x[3], x[2]), 1);
  }
  template <int k>
  static Lane::type lane(type x) {
    return _mm512_extracti32x4_epi32(x, k);
  }
  static void stream(void* to, type x) { _mm512_stream_si512(static_cast<__m512i*>(to), x); }
  static type broadcast(const void* lane) { return _mm512_broadcast_i32x4(load_lane(lane)); }
  static type shuffle_bytes(type x, type from) { return _mm512_shuffle_epi8(x, from); }
  template <int size>
  static type interleave_lower(type a, type b) {
    if constexpr (size == 1) return _mm512_unpacklo_epi8(a, b);
    if constexpr (size == 2) return _mm512_unpacklo_epi16(a, b);
    return _mm512_unpacklo_epi32(a, b);
  }
  template <int size>
  static type interleave_upper(type a, type b) {
    if constexpr (size == 1) return _mm512_unpackhi_epi8(a, b);
    if constexpr (size == 2) return _mm512_unpackhi_epi16(a, b);
    return _mm512_unpackhi_epi32(a, b);
  }
  static type exclusive_or(type a, type b) { return _mm512_xor_si512(a, b); }
  static type bitwise_and(type a, type b) { return _mm512_and_si512(a, b); }
  static type bitwise_or(type a, type b) { return _mm512_or_si512(a, b); }
  static type splat(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
  static type choose(type top_bits, type a, type b) {
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(top_bits), b, a);
  }
  static type shift_left(type x, int bits) { return _mm512_slli_epi16(x, bits); }
  static type shift_right(type x, int bits) { return _mm512_srli_epi16(x, bits); }
  struct Table {
    type quarter[4];
    explicit Table(const uint8_t* bytes) {
      for (int k = 0; k < 4; ++k) quarter[k] = load(bytes + 64 * k);
    }
  };
  static type lookup(const Table& table, type x) {
    const type low = _mm512_permutex2var_epi8(table.quarter[0], x, table.quarter[1]);
    const type high = _mm512_permutex2var_epi8(table.quarter[2], x, table.quarter[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
  }
  template <int lanes>
  static type lookup_in(const Lane::type (&table)[lanes], type index) {
    Lane::type all[4] = {};
    for (int k = 0; k < lanes; ++k) all[k] = table[k];
    return _mm512_permutexvar_epi8(index, from_lanes(all));
  }
  static type permute(type x, const uint8_t* from) { return _mm512_permutexvar_epi8(load(from), x); }
};

}  // namespace
}  // namespace blockenc

#include "kernels-inl.h"
BLOCKENC_TARGET_END
BLOCKENC_DEFINE_MAKE(avx512_vbmi)

#endif
