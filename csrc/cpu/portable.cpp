// The kernel in standard C++: every value type, layout and size, one value at a time.

#include <vector>

#include "../values.h"
#include "kernels.h"
#include "simd/floats-inl.h"

namespace blockenc {
namespace {

// What does not depend on the block: where each position is read and written, relative to the block.
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

// Positions go outermost along a row of blocks, so that what a position needs stays in registers.
template <class In, class Out>
class PortableKernel : public Kernel {
 public:
  explicit PortableKernel(const Plan& plan)
      : plan_(plan), rows_(plan, kInteger<In> || plan.flags & kNearest), negatives_(plan) {}

  // Stores of bytes may change whatever is referred to, so what is fixed comes by value.
  void run(const Job& job, int64_t first, int64_t last) const override {
    const int64_t columns = job.w / plan_.block_size;
    if constexpr (kInteger<In>) {
      const int top = rows_.last_value();
      each_row(job, first, last, [=](int p, const auto* from, int64_t in_step, auto* to, int64_t out_step) {
        const auto* row = rows_.row(p);
        for (int64_t b = 0; b < columns; ++b) {
          to[b * out_step] = row[std::min(In::load(from[b * in_step]), top)];
        }
      });
    } else {
      each_row(job, first, last, [=](int p, const auto* from, int64_t in_step, auto* to, int64_t out_step) {
        transform_floats<In, Out>(
            plan_, rows_, negatives_, p, columns, [=](int64_t b) { return from[b * in_step]; },
            [=](int64_t b, auto v) { to[b * out_step] = v; });
      });
    }
  }

 private:
  template <class F>
  void each_row(const Job& job, int64_t first, int64_t last, F&& at_position) const {
    const Offsets offsets(job);
    const int m = plan_.block_size;
    const int64_t block_rows = job.h / m;
    const auto* in = static_cast<const typename In::Storage*>(job.in);
    auto* out = static_cast<typename Out::Storage*>(job.out);
    for (int64_t r = first; r < last; ++r) {
      const int64_t image = r / block_rows, row = r % block_rows * m;
      const auto* from = in + image * job.in_stride[0] + row * job.in_stride[2];
      auto* to = out + image * job.out_stride[0] + row * job.out_stride[2];
      for (int p = 0; p < plan_.length; ++p) {
        at_position(p, from + offsets.in[p], m * job.in_stride[3], to + offsets.out[p],
                    m * job.out_stride[3]);
      }
    }
  }

  const Plan& plan_;
  IntegerRows<Out> rows_;
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
