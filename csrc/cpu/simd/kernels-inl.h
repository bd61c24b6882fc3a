// Which of the kernels of an instruction set a plan gets.
//
// Each file of an instruction set includes this one after it has chosen its target and defined `Vector`
// (columns-inl.h) and `Lane` (tiles-inl.h).

#pragma once

#include "columns-inl.h"
#include "tiles-inl.h"

namespace blockenc {
namespace {

// Level::make for `Vector`.
std::unique_ptr<const Kernel> make_kernel(const Plan& plan, Type in, Type out, Layout layout) {
  std::unique_ptr<const Kernel> kernel;
  const bool planar = layout == Layout::planar;
  with_types(in, out, [&](auto in_type, auto out_type) {
    using In = decltype(in_type);
    using Out = decltype(out_type);
    if (layout == Layout::any) return;
    if (plan.is_uniform()) {
      if constexpr (kByteLookups<In, Out> || kWideLookups<In, Out> || !kInteger<In>) {
        kernel = std::make_unique<ColumnKernel<In, Out>>(plan, planar);
      }
    } else if constexpr (kByteLookups<In, Out>) {
      kernel = TileKernel::make(plan, planar);
    }
  });
  return kernel ? std::move(kernel) : make_portable(plan, in, out);
}

}  // namespace
}  // namespace blockenc
