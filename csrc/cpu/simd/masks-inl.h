// The kernel for plans under which bytes stay in their places and are only flipped, or their halves are: an
// exclusive or with a mask, which is an image for all images of the batch.
//
// Included by kernels-inl.h.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "blocks-inl.h"

namespace blockenc {
namespace {

class MaskKernel : public Kernel {
 public:
  // Null if it is not for this plan.
  static std::unique_ptr<const Kernel> make(const Plan& plan, bool planar) {
    if (plan.keys != 1 || substitutes(plan) || !is_still(plan)) return nullptr;
    for (int64_t k = 0; k < int64_t{plan.variants} * plan.cells; ++k) {
      if (plan.source[k] != k % plan.cells) return nullptr;
    }
    return std::make_unique<MaskKernel>(plan, planar);
  }

  MaskKernel(const Plan& plan, bool planar) : planes_(plan, planar), block_rows_(plan.grid_rows) {
    const int64_t m = plan.block_size, columns = plan.grid_columns;
    row_bytes_ = columns * planes_.columns;
    mask_.resize(planes_.count * block_rows_ * m * row_bytes_);
    for (int64_t g = 0; g < plan.blocks(); ++g) {
      const uint8_t* flips = plan.flips + int64_t{plan.variant[g]} * plan.cells;
      for (int p = 0; p < plan.length; ++p) {
        const int64_t y = g / columns * m + planes_.row(p),
                      x = g % columns * planes_.columns + planes_.column(p);
        const int high = plan.flags & kNibbles ? flips[plan.length + p] : flips[p];
        mask_[(planes_.plane(p) * block_rows_ * m + y) * row_bytes_ + x] =
            static_cast<char>((flips[p] & 1 ? 0x0f : 0) | (high & 1 ? 0xf0 : 0));
      }
    }
  }

  void run(const Job& job, int64_t first, int64_t last) const override {
    const bool stream = Vector::has_stream && job.n * job.h * job.w * job.plan.channels > kMinStreamedBytes;
    const bool gapless = job.in_stride[2] == row_bytes_ && job.out_stride[2] == row_bytes_;
    for (int64_t begin = first, end; begin < last; begin = end) {
      const int64_t image = begin / block_rows_;
      end = std::min(last, (image + 1) * block_rows_);
      const int64_t row = begin % block_rows_ * planes_.m, rows = (end - begin) * planes_.m;
      for (int plane = 0; plane < planes_.count; ++plane) {
        for (int64_t y = row; y < (gapless ? row + 1 : row + rows); ++y) {
          const auto offset = [&](const int64_t* stride) {
            return image * stride[0] + plane * stride[1] + y * stride[2];
          };
          apply(static_cast<const char*>(job.in) + offset(job.in_stride),
                mask_.data() + (plane * job.h + y) * row_bytes_,
                static_cast<char*>(job.out) + offset(job.out_stride),
                gapless ? rows * row_bytes_ : row_bytes_, stream);
        }
      }
    }
    if (stream) Vector::fence();
  }

 private:
  static void apply(const char* in, const char* mask, char* out, int64_t bytes, bool stream) {
    int64_t k = 0;
    auto one_by_one = [&](int64_t end) {
      for (; k < end; ++k) out[k] = static_cast<char>(in[k] ^ mask[k]);
    };
    if (stream) one_by_one(std::min<int64_t>(-reinterpret_cast<uintptr_t>(out) & (kCacheLine - 1), bytes));
    for (; k + kCacheLine <= bytes; k += kCacheLine) {
      for (int v = 0; v < kCacheLine; v += Vector::bytes) {
        const auto x = Vector::exclusive_or(Vector::load(in + k + v), Vector::load(mask + k + v));
        stream ? Vector::stream(out + k + v, x) : Vector::store(out + k + v, x);
      }
    }
    one_by_one(bytes);
  }

  const Planes planes_;
  const int64_t block_rows_;
  int64_t row_bytes_;       // of a plane
  std::vector<char> mask_;  // [plane][pixel row][byte]
};

}  // namespace
}  // namespace blockenc
