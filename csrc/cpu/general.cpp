// Kernels for plans that do not treat all blocks alike, faster than the portable one where a plan allows it:
// a key for each image, masks, and blocks that stay whole. In standard C++, for every instruction set.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace blockenc {
namespace {

bool is_still(const Plan& plan) {
  const int64_t blocks = plan.blocks();
  for (int64_t k = 0; k < plan.keys * blocks; ++k) {
    if (plan.moves[k] != k % blocks) return false;
  }
  return true;
}

bool substitutes(const Plan& plan) {
  return std::any_of(plan.table_of, plan.table_of + plan.positions(),
                     [](uint16_t table) { return table != 0; });
}

// Where every image has a key of its own and no block moves: a kernel for uniform plans for each image.
class KeyKernel : public Kernel {
 public:
  KeyKernel(const Level& level, const Plan& plan, Type in, Type out, Layout layout)
      : level_(level), plan_(plan), in_(in), out_(out), layout_(layout) {}

  static bool takes(const Plan& plan) {
    return plan.grid_rows == 0 && plan.keys > 1 && !(plan.flags & kNibbles);
  }

  void run(const Job& job, int64_t first, int64_t last) const override {
    const int64_t block_rows = job.h / plan_.block_size;
    for (int64_t begin = first, end; begin < last; begin = end) {
      const int64_t image = begin / block_rows;
      end = std::min(last, (image + 1) * block_rows);
      Job part = job;
      part.plan = plan_of(plan_.key_of_image[image]);
      level_.make(part.plan, in_, out_, layout_)->run(part, begin, end);
    }
  }

 private:
  // The plan of all images of one key, which is its variant.
  Plan plan_of(int64_t key) const {
    Plan plan = plan_;
    plan.source += key * plan.cells;
    plan.flips += key * plan.cells;
    plan.table_of += key * plan.length;
    plan.variants = plan.keys = 1;
    plan.images = 0;
    return plan;
  }

  const Level& level_;
  const Plan& plan_;
  Type in_, out_;
  Layout layout_;
};

// Where bytes stay in their places and are only flipped, or their halves are: exclusive or with a mask, which
// is an image for all images of the batch.
class MaskKernel : public Kernel {
 public:
  MaskKernel(const Plan& plan, Layout layout) : plan_(plan), layout_(layout) {
    const int64_t m = plan.block_size, c = plan.channels, columns = plan.grid_columns;
    const int64_t h = plan.grid_rows * m, w = columns * m;
    mask_.resize(h * w * c);
    for (int64_t g = 0; g < plan.blocks(); ++g) {
      const uint8_t* flips = plan.flips + int64_t{plan.variant[g]} * plan.cells;
      for (int64_t p = 0; p < plan.length; ++p) {
        const int64_t y = g / columns * m + p / c / m, x = g % columns * m + p / c % m, channel = p % c;
        const int64_t at = layout == Layout::planar ? (channel * h + y) * w + x : (y * w + x) * c + channel;
        const int high = plan.flags & kNibbles ? flips[plan.length + p] : flips[p];
        mask_[at] = static_cast<uint8_t>((flips[p] & 1 ? 0x0f : 0) | (high & 1 ? 0xf0 : 0));
      }
    }
  }

  static bool takes(const Plan& plan, Type in, Type out, Layout layout) {
    if (plan.grid_rows == 0 || plan.keys != 1 || in != Type::u8 || out != Type::u8 || layout == Layout::any ||
        substitutes(plan) || !is_still(plan)) {
      return false;
    }
    for (int64_t k = 0; k < int64_t{plan.variants} * plan.cells; ++k) {
      if (plan.source[k] != k % plan.cells) return false;
    }
    return true;
  }

  void run(const Job& job, int64_t first, int64_t last) const override {
    const int64_t m = plan_.block_size, c = plan_.channels, block_rows = plan_.grid_rows;
    const bool planar = layout_ == Layout::planar;
    const int64_t planes = planar ? c : 1, row = planar ? job.w : job.w * c;
    for (int64_t r = first; r < last; ++r) {
      const int64_t image = r / block_rows, y = r % block_rows * m;
      for (int64_t plane = 0; plane < planes; ++plane) {
        for (int64_t i = 0; i < m; ++i) {
          const auto offset = [&](const int64_t* stride) {
            return image * stride[0] + plane * stride[1] + (y + i) * stride[2];
          };
          apply(static_cast<const uint8_t*>(job.in) + offset(job.in_stride),
                mask_.data() + (plane * job.h + y + i) * row,
                static_cast<uint8_t*>(job.out) + offset(job.out_stride), row);
        }
      }
    }
  }

 private:
  static void apply(const uint8_t* __restrict__ in, const uint8_t* __restrict__ mask,
                    uint8_t* __restrict__ out, int64_t count) {
    for (int64_t k = 0; k < count; ++k) out[k] = in[k] ^ mask[k];
  }

  const Plan& plan_;
  Layout layout_;
  std::vector<uint8_t> mask_;
};

// Eight pixels of a pixel row. Their first is the lowest byte: all supported processors are little-endian.
using Pixels = uint64_t;
constexpr int kPixels = 8;
constexpr int kCacheLine = 64;

using TwicePixels = uint64_t __attribute__((vector_size(2 * kPixels)));

template <class T>
T load(const uint8_t* from) {
  T pixels;
  std::memcpy(&pixels, from, sizeof pixels);
  return pixels;
}
template <class T>
void store(uint8_t* to, T pixels) {
  std::memcpy(to, &pixels, sizeof pixels);
}

// Exchanges rows and columns of 8 x 8 pixels: first those of its quarters, then of theirs, then of theirs
// (H. S. Warren, Hacker's Delight, section 7-3).
inline void transpose(Pixels (&rows)[kPixels]) {
  auto exchange = [&](int distance, Pixels low) {
    for (int k = 0; k < kPixels; ++k) {
      if (k & distance) continue;
      const Pixels differs = (rows[k] >> 8 * distance ^ rows[k + distance]) & low;
      rows[k] ^= differs << 8 * distance;
      rows[k + distance] ^= differs;
    }
  };
  exchange(4, 0x00000000ffffffff);
  exchange(2, 0x0000ffff0000ffff);
  exchange(1, 0x00ff00ff00ff00ff);
}

// Output of more than this has left the caches when somebody reads it.
constexpr int64_t kMinStreamedBytes = 3 << 20;

// Copies bytes past the caches, where there are such stores: memory that is written whole need not be read
// before.
inline void write_past_caches(uint8_t* to, const uint8_t* from, int64_t bytes) {
  int64_t k = 0;
#ifdef __SSE2__
  k = std::min<int64_t>(bytes, -reinterpret_cast<uintptr_t>(to) & 15);
  std::memcpy(to, from, k);
  for (; k + 16 <= bytes; k += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + k),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k)));
  }
#endif
  std::memcpy(to + k, from + k, bytes - k);
}
inline void fence() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Where blocks of bytes stay whole: they move, are turned and mirrored and negated, and their channels change
// places. Works on squares of 8 x 8 pixels.
class WholeBlockKernel : public Kernel {
  // What a channel of a block is made of: pixel (i, j) is pixel (a, b) of `channel`, (a, b) being (j, i) if
  // `turned` and else (i, j), counted from the end where `from_last` says so.
  struct Pose {
    int channel;
    bool turned, first_from_last, second_from_last;
    Pixels flip;
  };

 public:
  explicit WholeBlockKernel(const Plan& plan) : plan_(plan) {}

  // Also fills the poses; false where a variant does something else.
  bool takes(Type in, Type out, Layout layout) {
    if (plan_.grid_rows == 0 || plan_.block_size % kPixels || plan_.flags & kNibbles || in != Type::u8 ||
        out != Type::u8 || layout != Layout::planar || substitutes(plan_)) {
      return false;
    }
    for (int64_t v = 0; v < plan_.variants; ++v) {
      for (int channel = 0; channel < plan_.channels; ++channel) {
        Pose pose;
        if (!find_pose(v, channel, &pose)) return false;
        poses_.push_back(pose);
      }
    }
    return true;
  }

  void run(const Job& job, int64_t first, int64_t last) const override {
    switch (plan_.block_size) {  // the usual sizes as constants
      case 8:
        return run_blocks(job, first, last, std::integral_constant<int, 8>());
      case 16:
        return run_blocks(job, first, last, std::integral_constant<int, 16>());
      default:
        return run_blocks(job, first, last, plan_.block_size);
    }
  }

 private:
  template <class Size>
  void run_blocks(const Job& job, int64_t first, int64_t last, Size m) const {
    const int64_t block_rows = plan_.grid_rows, columns = plan_.grid_columns;
    const bool stream = job.n * job.h * job.w * plan_.channels > kMinStreamedBytes;
    std::vector<uint8_t> rows(stream ? m * job.w
                                     : 0);  // of one channel, put together in the first-level cache
    for (int64_t r = first; r < last; ++r) {
      const int64_t image = r / block_rows, start = r % block_rows * columns;
      const int64_t key = plan_.images ? plan_.key_of_image[image] : 0;
      const int32_t* moves = plan_.moves + key * plan_.blocks() + start;
      const int32_t* variant = plan_.variant + key * plan_.blocks() + start;
      const auto* in = static_cast<const uint8_t*>(job.in) + image * job.in_stride[0];
      auto* out =
          static_cast<uint8_t*>(job.out) + image * job.out_stride[0] + r % block_rows * m * job.out_stride[2];
      for (int channel = 0; channel < plan_.channels; ++channel) {
        uint8_t* const to = out + channel * job.out_stride[1];
        const uint8_t* const next =
            in + job.in_stride[0] + channel * job.in_stride[1] + r % block_rows * m * job.in_stride[2];
        for (int64_t g = 0; g < columns; ++g) {
          if (r + block_rows < last) prefetch(job, next, g, m);
          const Pose& pose = poses_[int64_t{variant[g]} * plan_.channels + channel];
          const auto [row, column] = std::div(moves[g], plan_.grid_columns);
          copy(pose, m,
               in + pose.channel * job.in_stride[1] + int64_t{row} * m * job.in_stride[2] + column * m,
               job.in_stride[2], (stream ? rows.data() : to) + g * m, stream ? job.w : job.out_stride[2]);
        }
        for (int i = 0; stream && i < m; ++i) {
          write_past_caches(to + i * job.out_stride[2], rows.data() + i * job.w, job.w);
        }
      }
    }
    if (stream) fence();
  }

  // Brings the cache lines of the input in which block g of a block row begins closer: blocks are read in an
  // order that no processor guesses. A few at a time, since only so many may be on their way.
  template <class Size>
  static void prefetch(const Job& job, const uint8_t* block_row, int64_t g, Size m) {
    if (g * m % kCacheLine >= m) return;  // in a line of the block before
    for (int i = 0; i < m; ++i) __builtin_prefetch(block_row + i * job.in_stride[2] + g * m, 0, 2);
  }

  int64_t origin(const Pose& pose, int i, int j) const {
    const int m = plan_.block_size;
    int a = pose.turned ? j : i, b = pose.turned ? i : j;
    if (pose.first_from_last) a = m - 1 - a;
    if (pose.second_from_last) b = m - 1 - b;
    return (int64_t{a} * m + b) * plan_.channels + pose.channel;
  }

  bool find_pose(int64_t variant, int channel, Pose* pose) const {
    const int m = plan_.block_size, c = plan_.channels;
    const int32_t* source = plan_.source + variant * plan_.cells;
    const uint8_t* flips = plan_.flips + variant * plan_.cells;
    for (int number = 0; number < 8; ++number) {
      const bool flip = flips[channel] & 1;
      *pose = {source[channel] % c, (number & 4) != 0, (number & 2) != 0, (number & 1) != 0,
               flip ? ~Pixels{0} : 0};
      bool fits = true;
      for (int p = channel; fits && p < plan_.length; p += c) {
        fits = source[p] == origin(*pose, p / c / m, p / c % m) && (flips[p] & 1) == flip;
      }
      if (fits) return true;
    }
    return false;
  }

  // A channel of a block of m x m pixels. `first_from_last` is that rows are read from the last one on, and
  // of a turned block `second_from_last` that rows are written so.
  template <class Size>
  static void copy(const Pose& pose, Size m, const uint8_t* in, int64_t in_row, uint8_t* out,
                   int64_t out_row) {
    if (pose.first_from_last) {
      in += (m - 1) * in_row;
      in_row = -in_row;
    }
    if (!pose.turned && pose.second_from_last) {
      for (int i = 0; i < m; ++i, in += in_row, out += out_row) {
        for (int j = 0; j < m; j += kPixels) {
          store(out + j, __builtin_bswap64(load<Pixels>(in + m - kPixels - j)) ^ pose.flip);
        }
      }
      return;
    }
    if (!pose.turned) {
      using Part =
          std::conditional_t<std::is_same_v<Size, std::integral_constant<int, 16>>, TwicePixels, Pixels>;
      const Part flip = pose.flip - Part{};
      for (int i = 0; i < m; ++i, in += in_row, out += out_row) {
        for (int j = 0; j < m; j += sizeof(Part)) store(out + j, load<Part>(in + j) ^ flip);
      }
      return;
    }
    if (pose.second_from_last) {
      out += (m - 1) * out_row;
      out_row = -out_row;
    }
    for (int i = 0; i < m; i += kPixels) {
      for (int j = 0; j < m; j += kPixels) {
        Pixels rows[kPixels];
        for (int k = 0; k < kPixels; ++k) rows[k] = load<Pixels>(in + (j + k) * in_row + i);
        transpose(rows);
        for (int k = 0; k < kPixels; ++k) store(out + (i + k) * out_row + j, rows[k] ^ pose.flip);
      }
    }
  }

  const Plan& plan_;
  std::vector<Pose> poses_;  // [variants][channels]
};

}  // namespace

std::unique_ptr<const Kernel> make_general(const Level& level, const Plan& plan, Type in, Type out,
                                           Layout layout) {
  if (KeyKernel::takes(plan)) return std::make_unique<KeyKernel>(level, plan, in, out, layout);
  if (MaskKernel::takes(plan, in, out, layout)) return std::make_unique<MaskKernel>(plan, layout);
  auto whole = std::make_unique<WholeBlockKernel>(plan);
  if (whole->takes(in, out, layout)) return whole;
  return make_portable(plan, in, out);
}

}  // namespace blockenc
