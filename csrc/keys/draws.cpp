#include "draws.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "../cpu/thread_pool.h"
#include "libcrypto.h"

namespace blockenc {
namespace {

// The words of one keystream after another. What was read ahead is wiped.
class Words {
 public:
  Words() = default;
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;
  ~Words() { wipe(bytes_, sizeof bytes_); }

  // From a word of a keystream on.
  void start(const uint8_t* subkey, int64_t word) {
    aes_.start(subkey, word / kWordsOfBlock);
    first_ = word / kWordsOfBlock * kWordsOfBlock;
    place_ = filled_ = 0;
    skipped_ = static_cast<int>(word % kWordsOfBlock);
  }

  // wanted: how many more are to come, this one included, unless some are rejected.
  uint32_t next(int64_t wanted) {
    if (place_ == filled_) fill(wanted);
    const uint8_t* b = bytes_ + 4 * place_++;
    return b[0] | b[1] << 8 | b[2] << 16 | static_cast<uint32_t>(b[3]) << 24;
  }

  // 0..bound - 1. A word in the last, incomplete stretch of `bound` words is rejected, since it would make
  // small numbers likelier.
  int64_t uniform(uint64_t bound, int64_t wanted) {
    for (;;) {
      const uint32_t word = next(wanted);
      if (bound > UINT32_MAX) return word;
      const uint32_t number = word % static_cast<uint32_t>(bound);
      if (word - number + bound <= uint64_t{1} << 32) return number;
    }
  }

  int64_t used() const { return first_ + place_ + skipped_; }

 private:
  static constexpr int kWordsOfBlock = kAesBlock / 4;
  static constexpr int kMost = 1024;  // words read at a time

  void fill(int64_t wanted) {
    static constexpr uint8_t kZeros[4 * kMost] = {};
    first_ += filled_;
    filled_ = static_cast<int>(std::min<int64_t>(skipped_ + wanted, kMost));
    aes_.encrypt(kZeros, bytes_, 4 * filled_);
    place_ = std::exchange(skipped_, 0);
  }

  Aes256 aes_{Aes256::Mode::counter};
  uint8_t bytes_[4 * kMost];
  int64_t first_ = 0;                         // the word of the keystream that bytes_ begins with
  int place_ = 0, filled_ = 0, skipped_ = 0;  // words of bytes_; of the first ones to come
};

// Calls do_items(first, last) for parts of [0, items), each on some thread. A part is worth waking a thread.
template <class DoItems>
void in_parts(int64_t items, int64_t cost_of_item, int threads, DoItems&& do_items) {
  constexpr int64_t kLeastCost = 1 << 14;  // words drawn, of some nanoseconds each
  constexpr int64_t kPartsOfThread = 4;    // so that threads that come late, or are slow, have fewer
  const int64_t parts =
      std::clamp<int64_t>(items * cost_of_item / kLeastCost, 1,
                          std::min<int64_t>(std::max<int64_t>(items, 1), threads * kPartsOfThread));
  in_parallel(parts, threads,
              [&](int64_t part) { do_items(items * part / parts, items * (part + 1) / parts); });
}

constexpr int64_t kCostOfKey = 64;  // what a new key costs, in words drawn

// Calls draw(words, k) for each keystream, from where it was left.
template <class Draw>
void from_each(const Keystreams& streams, int64_t numbers, int threads, Draw&& draw) {
  in_parts(streams.count, kCostOfKey + numbers, threads, [&](int64_t first, int64_t last) {
    Words words;
    for (int64_t k = first; k < last; ++k) {
      words.start(streams.subkeys + k * kSubkeyBytes, streams.used[k]);
      draw(words, k);
      streams.used[k] = words.used();
    }
  });
}

}  // namespace

void expand(const uint8_t* extracted, const std::vector<std::string_view>& infos, uint8_t* subkeys,
            int threads) {
  const auto count = static_cast<int64_t>(infos.size());
  in_parts(count, kCostOfKey, threads, [&](int64_t first, int64_t last) {
    Hmac hmac(extracted);
    for (int64_t k = first; k < last; ++k) {
      const std::string_view info = infos[static_cast<size_t>(k)];
      hmac.start();
      hmac.update(info.data(), info.size());
      hmac.update("\1", 1);  // the number of the block of output, of which there is one
      hmac.finish(subkeys + k * kSubkeyBytes);
    }
  });
}

void draw_uniforms(const Keystreams& streams, const int64_t* bounds, int64_t numbers, int64_t* drawn,
                   int threads) {
  from_each(streams, numbers, threads, [=](Words& words, int64_t k) {
    for (int64_t n = 0; n < numbers; ++n) {
      drawn[k * numbers + n] = words.uniform(static_cast<uint64_t>(bounds[n]), numbers - n);
    }
  });
}

void draw_permutations(const Keystreams& streams, int64_t permutations, int64_t length, int64_t* drawn,
                       int threads) {
  const int64_t draws = std::max<int64_t>(length - 1, 0);
  from_each(streams, permutations * draws, threads, [=](Words& words, int64_t k) {
    int64_t left = permutations * draws;
    for (int64_t n = 0; n < permutations; ++n) {
      int64_t* a = drawn + (k * permutations + n) * length;
      std::iota(a, a + length, int64_t{0});
      for (int64_t place = length - 1; place > 0; --place, --left) {
        std::swap(a[place], a[words.uniform(static_cast<uint64_t>(place) + 1, left)]);
      }
    }
  });
}

// A half is one numeral, of which there are 16, so that all rounds together ask for 160 numbers y: the
// CBC-MAC of the block P and a block Q, which ends in the round and the half (SP 800-38G, algorithm 7).
void make_byte_tables(const uint8_t* keys, int64_t count, uint16_t* tables, int threads) {
  constexpr int kRounds = 10, kRadix = 16, kNumbers = kRounds * kRadix;
  constexpr uint8_t kP[kAesBlock] = {1, 2, 1, 0, 0, kRadix, kRounds, 1, 0, 0, 0, 2, 0, 0, 0, 0};
  in_parts(count, kCostOfKey + 4 * kNumbers, threads, [=](int64_t first, int64_t last) {
    Aes256 aes(Aes256::Mode::blocks);
    uint8_t p[kAesBlock], q[kNumbers][kAesBlock], y[kNumbers];
    for (int64_t k = first; k < last; ++k) {
      aes.start(keys + k * kSubkeyBytes);
      aes.encrypt(kP, p, kAesBlock);
      for (int n = 0; n < kNumbers; ++n) {
        std::copy_n(p, kAesBlock, q[n]);
        q[n][14] ^= static_cast<uint8_t>(n / kRadix);
        q[n][15] ^= static_cast<uint8_t>(n % kRadix);
      }
      aes.encrypt(q[0], q[0], sizeof q);
      // y is the number in the first 8 bytes of an answer; its remainder is that of the last one.
      for (int n = 0; n < kNumbers; ++n) y[n] = q[n][7] % kRadix;
      // Round by round over all values: a half takes in a number, and becomes the lower one.
      uint8_t halves[2][kRadix * kRadix];
      for (int value = 0; value < kRadix * kRadix; ++value) {
        halves[0][value] = static_cast<uint8_t>(value / kRadix);
        halves[1][value] = static_cast<uint8_t>(value % kRadix);
      }
      for (int round = 0; round < kRounds; ++round) {
        uint8_t* changed = halves[round % 2];
        const uint8_t* other = halves[1 - round % 2];
        for (int value = 0; value < kRadix * kRadix; ++value) {
          changed[value] = (changed[value] + y[round * kRadix + other[value]]) % kRadix;
        }
      }
      for (int value = 0; value < kRadix * kRadix; ++value) {
        tables[k * kRadix * kRadix + value] =
            static_cast<uint16_t>(halves[0][value] * kRadix + halves[1][value]);
      }
    }
    wipe(q, sizeof q);
    wipe(y, sizeof y);
  });
}

}  // namespace blockenc
