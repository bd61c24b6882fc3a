// AVX2: vectors of two lanes; a look-up is sixteen shuffles, one for each high half of a byte.

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "kernels.h"
#include "values.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

namespace blockenc {
namespace {

struct Vector {
  using type = __m256i;
  static constexpr int bytes = 32;
  static type zero() { return _mm256_setzero_si256(); }
  static type load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static void store(void* to, type x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
  static type broadcast(const uint8_t* lane) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lane)));
  }
  static void stream16(void* to, const void* from) {
    _mm_stream_si128(static_cast<__m128i*>(to), _mm_loadu_si128(static_cast<const __m128i*>(from)));
  }
  static void fence() { _mm_sfence(); }
  static type shuffle(type x, type control) { return _mm256_shuffle_epi8(x, control); }
  static type exclusive_or(type a, type b) { return _mm256_xor_si256(a, b); }
  static type select(type mask, type a, type b) { return _mm256_blendv_epi8(b, a, mask); }
  struct Table {
    const uint8_t* bytes;
    explicit Table(const uint8_t* bytes) : bytes(bytes) {}
  };
  // Byte h*16 + l is in row h. Taking 16 off each time leaves l in 0..15 in that row's turn alone; adding
  // 0x70 with saturation sets the top bit of all others, for which the shuffle gives 0.
  static type lookup(const Table& table, type x) {
    const type room = _mm256_set1_epi8(0x70), row = _mm256_set1_epi8(16);
    type sum = zero();
    for (int h = 0; h < 16; ++h) {
      const type found = shuffle(broadcast(table.bytes + 16 * h), _mm256_adds_epu8(x, room));
      sum = _mm256_or_si256(sum, found);
      x = _mm256_sub_epi8(x, row);
    }
    return sum;
  }
};

}  // namespace
}  // namespace blockenc

#include "lines.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

namespace blockenc {

void run_avx2(const Job& job, int64_t first, int64_t last) { run_vectors(job, first, last); }

}  // namespace blockenc

#endif
