// Kernels for plans that do not treat all blocks alike, in standard C++: a key for each image, and masks.

#include <algorithm>
#include <vector>

#include "kernels.h"

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

  static bool takes(const Plan& plan) { return plan.grid_rows == 0 && plan.keys > 1; }

  void run(const Job& job, int64_t first, int64_t last) const override {
    const int64_t block_rows = job.h / plan_.block_size;
    for (int64_t begin = first, end; begin < last; begin = end) {
      const int64_t image = begin / block_rows;
      end = std::min(last, (image + 1) * block_rows);
      Job part = job;
      part.plan = plan_.of_variant(plan_.key_of_image[image]);
      level_.make(part.plan, in_, out_, layout_)->run(part, begin, end);
    }
  }

 private:
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

}  // namespace

std::unique_ptr<const Kernel> make_kernel(const Level& level, const Plan& plan, Type in, Type out,
                                          Layout layout) {
  if (KeyKernel::takes(plan)) return std::make_unique<KeyKernel>(level, plan, in, out, layout);
  if (MaskKernel::takes(plan, in, out, layout)) return std::make_unique<MaskKernel>(plan, layout);
  return level.make(plan, in, out, layout);
}

}  // namespace blockenc
