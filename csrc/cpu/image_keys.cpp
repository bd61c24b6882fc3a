// The kernel for plans with a key for each image, and the choice of a kernel for a plan.

#include <algorithm>

#include "kernels.h"

namespace blockenc {
namespace {

// Where every image has a key of its own and no block moves: a kernel for uniform plans for each image, whose
// units are block rows.
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

}  // namespace

std::unique_ptr<const Kernel> kernel_for(const Level& level, const Plan& plan, Type in, Type out,
                                         Layout layout) {
  if (KeyKernel::takes(plan)) return std::make_unique<KeyKernel>(level, plan, in, out, layout);
  return level.make(plan, in, out, layout);
}

}  // namespace blockenc
