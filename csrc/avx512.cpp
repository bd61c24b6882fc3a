// AVX-512 with VBMI (Ice Lake, Zen 4 and later): vectors of four lanes, look-ups by byte permutations.

#if defined(__x86_64__) && defined(__GNUC__)

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
  static constexpr int bytes = 64;
  static type zero() { return _mm512_setzero_si512(); }
  static type load(const void* from) { return _mm512_loadu_si512(from); }
  static void store(void* to, type x) { _mm512_storeu_si512(to, x); }
  static type broadcast(const uint8_t* lane) {
    return _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(lane)));
  }
  static void stream16(void* to, const void* from) {
    _mm_stream_si128(static_cast<__m128i*>(to), _mm_loadu_si128(static_cast<const __m128i*>(from)));
  }
  static void fence() { _mm_sfence(); }
  static type shuffle(type x, type control) { return _mm512_shuffle_epi8(x, control); }
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
};

}  // namespace
}  // namespace blockenc

#include "lines.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

namespace blockenc {

void run_avx512(const Job& job, int64_t first, int64_t last) { run_vectors(job, first, last); }

}  // namespace blockenc

#endif
