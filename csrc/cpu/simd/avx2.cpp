// AVX2: vectors of two lanes; a look-up is sixteen shuffles and the choice among them.

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

// Before the target is chosen: what several files share must run on every processor.
#include "../../values.h"
#include "../kernels.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

namespace blockenc {
namespace {

struct Vector {
  using type = __m256i;
  static constexpr int bytes = 32, most_piece = 32;
  static constexpr bool streams = true, wide_lookups = false;
  static type load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static void store(void* to, type x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
  template <int parts>
  static type gather(const char* const* at, int64_t offset) {
    if constexpr (parts == 1) return load(at[0] + offset);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_lane(at[0] + offset)),
                                   load_lane(at[1] + offset), 1);
  }
  template <int parts>
  static void scatter(char* const* to, int64_t offset, type x) {
    if constexpr (parts == 1) {
      store(to[0] + offset, x);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to[0] + offset), _mm256_castsi256_si128(x));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to[1] + offset), _mm256_extracti128_si256(x, 1));
    }
  }
  static void stream(void* to, type x) { _mm256_stream_si256(static_cast<__m256i*>(to), x); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* at) { _mm_prefetch(at, _MM_HINT_T1); }
  static type repeat(const void* lane) { return _mm256_broadcastsi128_si256(load_lane(lane)); }
  static type within(type x, type from) { return _mm256_shuffle_epi8(x, from); }
  template <int size>
  static type low(type a, type b) {
    if constexpr (size == 1) return _mm256_unpacklo_epi8(a, b);
    if constexpr (size == 2) return _mm256_unpacklo_epi16(a, b);
    return _mm256_unpacklo_epi32(a, b);
  }
  template <int size>
  static type high(type a, type b) {
    if constexpr (size == 1) return _mm256_unpackhi_epi8(a, b);
    if constexpr (size == 2) return _mm256_unpackhi_epi16(a, b);
    return _mm256_unpackhi_epi32(a, b);
  }
  static type exclusive_or(type a, type b) { return _mm256_xor_si256(a, b); }
  struct Table {
    const uint8_t* bytes;
    explicit Table(const uint8_t* bytes) : bytes(bytes) {}
  };
  // Row h of a table holds the bytes 16*h...: all rows are looked up by the low half of x. A shuffle gives 0
  // where the top bit of an index is set, so that bit chooses between rows 8 apart; the other bits of the
  // high half choose among these, halving their number each time. (A blend looks at the top bit of a byte.)
  static type lookup(const Table& table, type x) {
    const type low = _mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>(0x8f)));
    const type high = _mm256_xor_si256(low, _mm256_set1_epi8(static_cast<char>(0x80)));
    return among<8>(table.bytes, low, high, x);
  }

 private:
  static __m128i load_lane(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
  template <int rows>
  static type among(const uint8_t* table, type low, type high, type x) {
    if constexpr (rows == 1) {
      return _mm256_or_si256(within(repeat(table), low), within(repeat(table + 128), high));
    } else {
      constexpr int bit = rows == 8 ? 1 : rows == 4 ? 2 : 3;  // counted from the top
      return _mm256_blendv_epi8(among<rows / 2>(table, low, high, x),
                                among<rows / 2>(table + 8 * rows, low, high, x), _mm256_slli_epi16(x, bit));
    }
  }
};

}  // namespace
}  // namespace blockenc

#include "columns-inl.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

namespace blockenc {

std::unique_ptr<const Kernel> make_avx2(const Plan& plan, Type in, Type out, Layout layout) {
  return make_columns(plan, in, out, layout);
}

}  // namespace blockenc

#endif
