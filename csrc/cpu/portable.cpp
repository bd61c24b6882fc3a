// The kernel in standard C++: every value type, layout and size, one value at a time.

#include <vector>

#include "../values.h"
#include "kernels.h"
#include "simd/floats-inl.h"

namespace blockenc {
namespace {

// Where each position of a block is read and written, in elements from the block's first pixel: the same for
// every block.
struct Offsets {
  std::vector<int64_t> in, out;

  explicit Offsets(const Job& job) : in(job.plan.length), out(job.plan.length) {
    const int m = job.plan.block_size, c = job.plan.channels;
    auto offset = [&](int p, const int64_t* stride) {
      return p % c * stride[1] + p / c / m * stride[2] + p / c % m * stride[3];
    };
    for (int p = 0; p < job.plan.length; ++p) {
      in[p] = offset(job.plan.source[p], job.in_stride);
      out[p] = offset(p, job.out_stride);
    }
  }
};

// Goes through a block row one position after the other, each for all blocks of the block row, so that what a
// position needs stays in registers.
template <class In, class Out>
class PortableKernel : public Kernel {
 public:
  explicit PortableKernel(const Plan& plan)
      : plan_(plan), tables_(plan, kInteger<In> || plan.flags & kNearest), negatives_(plan) {}

  // The inner functions capture by value: to the compiler a store of a byte may change anything that is
  // referred to, which it would load again and again.
  void run(const Job& job, int64_t first, int64_t last) const override {
    const int64_t blocks = job.w / plan_.block_size;
    if constexpr (kInteger<In>) {
      const int last_value = tables_.last_value();
      each_position(job, first, last,
                    [=](int p, const auto* from, int64_t in_step, auto* to, int64_t out_step) {
                      const auto* table = tables_.table(p);
                      for (int64_t b = 0; b < blocks; ++b) {
                        to[b * out_step] = table[std::min(In::load(from[b * in_step]), last_value)];
                      }
                    });
    } else {
      each_position(job, first, last,
                    [=](int p, const auto* from, int64_t in_step, auto* to, int64_t out_step) {
                      transform_floats<In, Out>(
                          plan_, tables_, negatives_, p, blocks, [=](int64_t b) { return from[b * in_step]; },
                          [=](int64_t b, auto v) { to[b * out_step] = v; });
                    });
    }
  }

 private:
  // Calls transform(p, from, in_step, to, out_step) for each position of each block row: where the first
  // block reads and writes it, and the elements from there to the next block's.
  template <class F>
  void each_position(const Job& job, int64_t first, int64_t last, F&& transform) const {
    const Offsets offsets(job);
    const int m = plan_.block_size;
    const int64_t block_rows = job.h / m;
    const auto* in = static_cast<const typename In::Storage*>(job.in);
    auto* out = static_cast<typename Out::Storage*>(job.out);
    for (int64_t r = first; r < last; ++r) {
      const int64_t image = r / block_rows, pixel_row = r % block_rows * m;
      const auto* from = in + image * job.in_stride[0] + pixel_row * job.in_stride[2];
      auto* to = out + image * job.out_stride[0] + pixel_row * job.out_stride[2];
      for (int p = 0; p < plan_.length; ++p) {
        transform(p, from + offsets.in[p], m * job.in_stride[3], to + offsets.out[p], m * job.out_stride[3]);
      }
    }
  }

  const Plan& plan_;
  LookupTables<Out> tables_;
  Negatives<In> negatives_;
};

}  // namespace

std::unique_ptr<const Kernel> make_portable(const Plan& plan, Type in, Type out, Layout) {
  std::unique_ptr<const Kernel> kernel;
  with_types(in, out, [&](auto in_type, auto out_type) {
    kernel = std::make_unique<PortableKernel<decltype(in_type), decltype(out_type)>>(plan);
  });
  return kernel;
}

}  // namespace blockenc
