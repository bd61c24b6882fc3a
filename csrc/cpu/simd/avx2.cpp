// AVX2 (and FMA, which comes with it): vectors of two lanes; a table lookup is sixteen shuffles and the
// choice among their results.

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "target.h"
BLOCKENC_TARGET_BEGIN("avx2,fma")
#include "x86-inl.h"

namespace blockenc {
namespace {

struct Vector : X86 {
  using type = __m256i;
  static constexpr int bytes = 32;
  static constexpr bool has_fast_lookup = false, has_fast_permute = false;
  static type load(const void* from) { return load_pair(from); }
  static void store(void* to, type x) { store_pair(to, x); }
  template <int count>
  static type load_parts(const char* const* parts, int64_t offset) {
    if constexpr (count == 1) return load(parts[0] + offset);
    return load_two_lanes(parts[0] + offset, parts[1] + offset);
  }
  template <int count>
  static void store_parts(char* const* parts, int64_t offset, type x) {
    if constexpr (count == 1) {
      store(parts[0] + offset, x);
    } else {
      store_two_lanes(parts, offset, x);
    }
  }
  static type from_lanes(const Lane::type (&x)[2]) { return _mm256_set_m128i(x[1], x[0]); }
  template <int k>
  static Lane::type lane(type x) {
    return _mm256_extracti128_si256(x, k);
  }
  static void stream(void* to, type x) { _mm256_stream_si256(static_cast<__m256i*>(to), x); }
  static type broadcast(const void* lane) { return _mm256_broadcastsi128_si256(load_lane(lane)); }
  static type shuffle_bytes(type x, type from) { return _mm256_shuffle_epi8(x, from); }
  template <int size>
  static type interleave_lower(type a, type b) {
    if constexpr (size == 1) return _mm256_unpacklo_epi8(a, b);
    if constexpr (size == 2) return _mm256_unpacklo_epi16(a, b);
    return _mm256_unpacklo_epi32(a, b);
  }
  template <int size>
  static type interleave_upper(type a, type b) {
    if constexpr (size == 1) return _mm256_unpackhi_epi8(a, b);
    if constexpr (size == 2) return _mm256_unpackhi_epi16(a, b);
    return _mm256_unpackhi_epi32(a, b);
  }
  static type exclusive_or(type a, type b) { return _mm256_xor_si256(a, b); }
  static type bitwise_and(type a, type b) { return _mm256_and_si256(a, b); }
  static type bitwise_or(type a, type b) { return _mm256_or_si256(a, b); }
  static type splat(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
  static type choose(type top_bits, type a, type b) { return _mm256_blendv_epi8(b, a, top_bits); }
  static type shift_left(type x, int bits) { return _mm256_slli_epi16(x, bits); }
  static type shift_right(type x, int bits) { return _mm256_srli_epi16(x, bits); }
  struct Table {
    const uint8_t* bytes;
    explicit Table(const uint8_t* bytes) : bytes(bytes) {}
  };
  // A shuffle looks up the low half of every byte of x in 16 bytes of the table, its part number h being
  // bytes 16 * h to 16 * h + 15. The high half of the byte says which part's result counts. Its top bit
  // chooses between parts 8 apart in the shuffles themselves: they give 0 where the top bit of an index is
  // set, and look at none of the three bits below it. Each of these halves the number of results with a
  // blend, which looks at the top bit of a byte.
  static type lookup(const Table& table, type x) {
    const type bit6 = _mm256_add_epi8(x, x), bit5 = _mm256_add_epi8(bit6, bit6),
               bit4 = _mm256_add_epi8(bit5, bit5);
    return lookup_parts(table.bytes, x, exclusive_or(x, splat(0x80)), bit6, bit5, bit4);
  }
  // Bits 4 and 5 of an index say which lane of the table counts.
  template <int lanes>
  static type lookup_in(const Lane::type (&table)[lanes], type index) {
    const type in_lane = _mm256_and_si256(index, splat(0x0f));  // a shuffle gives 0 where the top bit is set
    type x[4];
    for (int k = 0; k < lanes; ++k) x[k] = shuffle_bytes(_mm256_broadcastsi128_si256(table[k]), in_lane);
    const type bit4 = shift_left(index, 3), bit5 = shift_left(index, 2);
    if constexpr (lanes == 1) return x[0];
    const type low = choose(bit4, x[1], x[0]);
    if constexpr (lanes == 2) return low;
    if constexpr (lanes == 3) return choose(bit5, x[2], low);
    return choose(bit5, choose(bit4, x[3], x[2]), low);
  }
  static type permute(type x, const uint8_t* from) {
    const type index = load(from), low = _mm256_permute2x128_si256(x, x, 0x00),
               high = _mm256_permute2x128_si256(x, x, 0x11);
    return choose(shift_left(index, 3), shuffle_bytes(high, index), shuffle_bytes(low, index));
  }

 private:
  // Looks up in as many parts of the table as `bits` can number, and in as many from byte 128 on. bits: x
  // shifted so that each bit of a part's number in turn is the top one.
  static type lookup_parts(const uint8_t* table, type low, type high) {
    return bitwise_or(shuffle_bytes(broadcast(table), low), shuffle_bytes(broadcast(table + 128), high));
  }
  template <class... Bits>
  static type lookup_parts(const uint8_t* table, type low, type high, type bit, Bits... bits) {
    constexpr int parts = 1 << sizeof...(bits);
    return choose(bit, lookup_parts(table + parts * 16, low, high, bits...),
                  lookup_parts(table, low, high, bits...));
  }
};

}  // namespace
}  // namespace blockenc

#include "kernels-inl.h"
BLOCKENC_TARGET_END
BLOCKENC_DEFINE_MAKE(avx2)

#endif
