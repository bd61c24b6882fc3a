// The kernel in standard C++: every value type, layout and size, one value at a time.

#include <vector>

#include "kernels.h"
#include "values.h"

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
void run(const Job& job, int64_t first, int64_t last) {
  const Offsets offsets(job);
  const Plan& plan = job.plan;
  const int m = plan.block_size;
  const int64_t block_rows = job.h / m, block_columns = job.w / m;
  const int64_t in_step = m * job.in_stride[3], out_step = m * job.out_stride[3];
  const auto* in = static_cast<const typename In::Storage*>(job.in);
  auto* out = static_cast<typename Out::Storage*>(job.out);
  auto each_row = [&](auto&& at_position) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t image = r / block_rows, row = r % block_rows * m;
      const auto* from = in + image * job.in_stride[0] + row * job.in_stride[2];
      auto* to = out + image * job.out_stride[0] + row * job.out_stride[2];
      for (int p = 0; p < plan.length; ++p) at_position(p, from + offsets.in[p], to + offsets.out[p]);
    }
  };
  if constexpr (kInteger<In>) {
    const IntegerRows<Out> rows(plan);
    const int top = rows.last_value();
    each_row([&](int p, const auto* from, auto* to) {
      const auto* row = rows.row(p);
      for (int64_t b = 0; b < block_columns; ++b) {
        to[b * out_step] = row[std::min(In::load(from[b * in_step]), top)];
      }
    });
  } else {
    each_row([&](int p, const auto* from, auto* to) {
      for (int64_t b = 0; b < block_columns; ++b) {
        to[b * out_step] = transform_float<In, Out>(plan, p, p % plan.channels, from[b * in_step]);
      }
    });
  }
}

}  // namespace

void run_portable(const Job& job, int64_t first, int64_t last) {
  with_types(job, [&](auto in, auto out) { run<decltype(in), decltype(out)>(job, first, last); });
}

}  // namespace blockenc
