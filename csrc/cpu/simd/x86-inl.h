// What AVX2 and AVX-512 have in common. Included by the files of both, after they have chosen their targets.

#include <immintrin.h>

namespace blockenc {
namespace {

struct X86 {
  static constexpr int max_part_bytes = 32;
  static constexpr bool has_stream = true;
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* at) { _mm_prefetch(at, _MM_HINT_T1); }

 protected:
  static __m128i load_lane(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
  static void store_lane(void* to, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(to), x); }
  static __m256i load_two_lanes(const void* first, const void* second) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_lane(first)), load_lane(second), 1);
  }
  // Reads the second address only after the first store: with both at hand, GCC adds the offset to each
  // instead of leaving it to the store's addressing mode.
  static void store_two_lanes(char* const* parts, int64_t offset, __m256i x) {
    store_lane(parts[0] + offset, _mm256_castsi256_si128(x));
    store_lane(parts[1] + offset, _mm256_extracti128_si256(x, 1));
  }
  static __m256i load_pair(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static void store_pair(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
};

// 16 bytes.
struct Lane {
  using type = __m128i;
  static type load(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
  static void store(void* to, type x) { _mm_storeu_si128(static_cast<__m128i*>(to), x); }
  template <int bytes>
  static type load_part(const void* from) {
    if constexpr (bytes == 16) return load(from);
    if constexpr (bytes == 8) return _mm_loadu_si64(from);
    if constexpr (bytes == 4) return _mm_loadu_si32(from);
    if constexpr (bytes == 2) return _mm_loadu_si16(from);
    if constexpr (bytes == 1) return _mm_cvtsi32_si128(*static_cast<const uint8_t*>(from));
  }
  template <int bytes>
  static void store_part(void* to, type x) {
    if constexpr (bytes == 16) store(to, x);
    if constexpr (bytes == 8) _mm_storeu_si64(to, x);
    if constexpr (bytes == 4) _mm_storeu_si32(to, x);
    if constexpr (bytes == 2) _mm_storeu_si16(to, x);
    if constexpr (bytes == 1) *static_cast<uint8_t*>(to) = static_cast<uint8_t>(_mm_cvtsi128_si32(x));
  }
  template <int bytes>
  static type shift_down(type x) {
    return _mm_srli_si128(x, bytes);
  }
  static type shuffle_bytes(type x, type from) { return _mm_shuffle_epi8(x, from); }
  template <int size>
  static type interleave_lower(type a, type b) {
    if constexpr (size == 1) return _mm_unpacklo_epi8(a, b);
    if constexpr (size == 2) return _mm_unpacklo_epi16(a, b);
    if constexpr (size == 4) return _mm_unpacklo_epi32(a, b);
    if constexpr (size == 8) return _mm_unpacklo_epi64(a, b);
  }
  template <int size>
  static type interleave_upper(type a, type b) {
    static_assert(size == 1);
    return _mm_unpackhi_epi8(a, b);
  }
  static type exclusive_or(type a, type b) { return _mm_xor_si128(a, b); }
};

}  // namespace
}  // namespace blockenc
