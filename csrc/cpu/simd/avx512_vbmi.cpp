// AVX-512 with VBMI (Ice Lake, Zen 4 and later): vectors of four lanes, look-ups by byte permutations.

#if defined(__x86_64__) && defined(__GNUC__)

// GCC 12 takes the undefined vectors inside its own intrinsics for variables that lack a value.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

// Before the target is chosen: what several files share must run on every processor.
#include "../../values.h"
#include "../kernels.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vbmi")
#endif

namespace blockenc {
namespace {

struct Vector {
  using type = __m512i;
  static constexpr int bytes = 64, most_piece = 32;
  static constexpr bool streams = true, wide_lookups = true;
  static type load(const void* from) { return _mm512_loadu_si512(from); }
  static void store(void* to, type x) { _mm512_storeu_si512(to, x); }
  // Halves: on Zen 4 two loads or stores of 32 bytes take the time of one of 64.
  template <int parts>
  static type gather(const char* const* at, int64_t offset) {
    __m256i half[2];
    for (int h = 0; h < 2; ++h) {
      if constexpr (parts == 2) {
        half[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at[h] + offset));
      } else {
        half[h] = _mm256_inserti128_si256(_mm256_castsi128_si256(load_lane(at[2 * h] + offset)),
                                          load_lane(at[2 * h + 1] + offset), 1);
      }
    }
    return _mm512_inserti64x4(_mm512_castsi256_si512(half[0]), half[1], 1);
  }
  template <int parts>
  static void scatter(char* const* to, int64_t offset, type x) {
    const __m256i half[2] = {_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)};
    for (int h = 0; h < 2; ++h) {
      if constexpr (parts == 2) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to[h] + offset), half[h]);
      } else {
        store_lane(to[2 * h] + offset, _mm256_castsi256_si128(half[h]));
        store_lane(to[2 * h + 1] + offset, _mm256_extracti128_si256(half[h], 1));
      }
    }
  }
  static void stream(void* to, type x) { _mm512_stream_si512(static_cast<__m512i*>(to), x); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* at) { _mm_prefetch(at, _MM_HINT_T1); }
  static type repeat(const void* lane) { return _mm512_broadcast_i32x4(load_lane(lane)); }
  static type within(type x, type from) { return _mm512_shuffle_epi8(x, from); }
  template <int size>
  static type low(type a, type b) {
    if constexpr (size == 1) return _mm512_unpacklo_epi8(a, b);
    if constexpr (size == 2) return _mm512_unpacklo_epi16(a, b);
    return _mm512_unpacklo_epi32(a, b);
  }
  template <int size>
  static type high(type a, type b) {
    if constexpr (size == 1) return _mm512_unpackhi_epi8(a, b);
    if constexpr (size == 2) return _mm512_unpackhi_epi16(a, b);
    return _mm512_unpackhi_epi32(a, b);
  }
  static type exclusive_or(type a, type b) { return _mm512_xor_si512(a, b); }
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
  static type permute(type x, const uint8_t* from) { return _mm512_permutexvar_epi8(load(from), x); }

 private:
  static __m128i load_lane(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
  static void store_lane(void* at, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(at), x); }
};

}  // namespace
}  // namespace blockenc

#include "columns-inl.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

namespace blockenc {

std::unique_ptr<const Kernel> make_avx512_vbmi(const Plan& plan, Type in, Type out, Layout layout) {
  return make_columns(plan, in, out, layout);
}

}  // namespace blockenc

#endif
