// AVX-512 with VBMI (Ice Lake, Zen 4 and later): vectors that are lanes, look-ups by byte permutations.

#if defined(__x86_64__) && defined(__GNUC__)

// GCC 12 takes the undefined vectors inside its own intrinsics for variables that lack a value.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include "kernels.h"
#include "values.h"

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
  static constexpr int bytes = 64, unroll = 4, lane = 64, narrow_lane = 32;
  static constexpr bool streams = true, wide_lookups = true;
  static type load(const void* from) { return _mm512_loadu_si512(from); }
  static void store(void* to, type x) { _mm512_storeu_si512(to, x); }
  static type load(const void* low, const void* high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(static_cast<const __m256i*>(low))),
                              _mm256_loadu_si256(static_cast<const __m256i*>(high)), 1);
  }
  static void store(void* low, void* high, type x) {
    _mm256_storeu_si256(static_cast<__m256i*>(low), _mm512_castsi512_si256(x));
    _mm256_storeu_si256(static_cast<__m256i*>(high), _mm512_extracti64x4_epi64(x, 1));
  }
  static void stream(void* to, type x) { _mm512_stream_si512(static_cast<__m512i*>(to), x); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* at) { _mm_prefetch(at, _MM_HINT_T1); }
  struct Control {
    uint8_t from[64];  // byte from & 63 of a, or of b from 64 on
    __mmask64 some;
    Control(const int16_t* source, int lane) : some(0) {
      for (int j = 0; j < 64; ++j) {
        const int byte = source[j % lane];
        from[j] =
            static_cast<uint8_t>(byte < lane ? byte + j / lane * lane : byte - lane + j / lane * lane + 64);
        some |= __mmask64{byte >= 0} << j;
      }
    }
  };
  static type shuffle(type a, type b, const Control& control) {
    return _mm512_maskz_permutex2var_epi8(control.some, a, load(control.from), b);
  }
  static type either(type a, type b) { return _mm512_or_si512(a, b); }
  static type exclusive_or(type a, type b) { return _mm512_xor_si512(a, b); }
  static type select(type mask, type a, type b) { return _mm512_ternarylogic_epi64(mask, a, b, 0xca); }
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
  // Unpacking works lane by lane: with bytes spread like this before, its results are in order.
  template <int n>
  static type spread(type x) {
    if (n == 2) return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x);
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                    x);
  }
  static void interleave(type (&x)[2]) {
    const type low = _mm512_unpacklo_epi8(x[0], x[1]);
    x[1] = _mm512_unpackhi_epi8(x[0], x[1]);
    x[0] = low;
  }
  static void interleave(type (&x)[4]) {
    type front[2] = {x[0], x[1]}, back[2] = {x[2], x[3]};
    interleave(front);
    interleave(back);
    for (int k = 0; k < 2; ++k) {
      x[2 * k] = _mm512_unpacklo_epi16(front[k], back[k]);
      x[2 * k + 1] = _mm512_unpackhi_epi16(front[k], back[k]);
    }
  }
};

}  // namespace
}  // namespace blockenc

#include "lines.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

namespace blockenc {

std::unique_ptr<const Kernel> make_avx512(const Plan& plan, Type in, Type out, const Rows& rows) {
  return make_lines(plan, in, out, rows);
}

}  // namespace blockenc

#endif
