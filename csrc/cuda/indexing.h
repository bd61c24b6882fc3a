// What the kernel `elements` needs to find out which element of which block an element of a batch is. Plain
// C++, computed on the host.

#pragma once

#include <cstdint>

#include "divisor.h"

namespace blockenc {

struct Indexing {
  int64_t image_elements;
  Divisor width, height, channels, block_size, grid_columns;
};

inline Indexing make_indexing(const Job& job) {
  const Plan& plan = job.plan;
  return {plan.channels * job.h * job.w, Divisor(job.w),           Divisor(job.h),
          Divisor(plan.channels),        Divisor(plan.block_size), Divisor(job.w / plan.block_size)};
}

// Whether the elements of an image are too many for the divisors.
inline bool is_wide(const Indexing& index) { return index.image_elements > INT32_MAX; }

}  // namespace blockenc
