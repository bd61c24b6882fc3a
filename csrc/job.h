// Makes a Job from the arguments that Python passes: for both extension modules and the emulation of CUDA.

#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "plan.h"

namespace blockenc {

// A shape of three numbers is one image, a batch of one. Throws std::invalid_argument naming the argument.
inline Job make_job(uintptr_t in, uintptr_t out, int in_type, int out_type, const std::vector<int64_t>& shape,
                    const std::vector<int64_t>& in_stride, const std::vector<int64_t>& out_stride,
                    uintptr_t plan, int64_t plan_bytes, int block_size, int tables, int flags) {
  Job job{};
  int64_t sizes[4];
  auto four = [](const std::vector<int64_t>& values, int64_t* to, int64_t leading) {
    if (values.size() != 3 && values.size() != 4) {
      throw std::invalid_argument("shape: expected 3 or 4 numbers, got " + std::to_string(values.size()));
    }
    to[0] = leading;
    for (size_t k = 0; k < values.size(); ++k) to[4 - values.size() + k] = values[k];
  };
  four(shape, sizes, 1);
  four(in_stride, job.in_stride, 0);
  four(out_stride, job.out_stride, 0);
  if (block_size < 1 || sizes[2] % block_size || sizes[3] % block_size) {
    throw std::invalid_argument("block_size: expected a divisor of height and width, got " +
                                std::to_string(block_size));
  }
  if (sizes[1] < 1 || int64_t{block_size} * block_size > kMaxBlockLength ||
      int64_t{block_size} * block_size * sizes[1] > kMaxBlockLength) {
    throw std::invalid_argument("plan: expected a block of 1 to " + std::to_string(kMaxBlockLength) +
                                " values");
  }
  if (tables < 0 || tables > kMaxTables || flags < 0 || flags > kAllFlags) {
    throw std::invalid_argument("plan: no plan has " + std::to_string(tables) + " tables and the flags " +
                                std::to_string(flags));
  }
  job.in = reinterpret_cast<const void*>(in);
  job.out = reinterpret_cast<void*>(out);
  job.in_type = static_cast<Type>(in_type);
  job.out_type = static_cast<Type>(out_type);
  job.n = sizes[0];
  job.h = sizes[2];
  job.w = sizes[3];
  const int64_t expected = unpack_plan(reinterpret_cast<const void*>(plan), block_size,
                                       static_cast<int>(sizes[1]), tables, flags, &job.plan);
  if (expected != plan_bytes) {
    throw std::invalid_argument("plan: expected " + std::to_string(expected) +
                                " bytes for this scheme, got " + std::to_string(plan_bytes));
  }
  return job;
}

}  // namespace blockenc
