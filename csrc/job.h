// Makes a Job from the arguments that Python passes: for both extension modules and the emulation of CUDA.

#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "plan.h"

namespace blockenc {

// Throws std::invalid_argument unless a packed plan of so many bytes may begin like this. What its arrays
// hold is for others to check.
inline void check_header(const Header& h, int64_t bytes) {
  auto fail = [](const std::string& what) { throw std::invalid_argument("plan: " + what); };
  if (std::memcmp(h.magic, kMagic, sizeof h.magic) != 0 || h.layout != kLayout ||
      h.header_bytes != kHeaderBytes || h.zero != 0) {
    fail("expected a packed plan of layout " + std::to_string(kLayout));
  }
  const int64_t m = h.block_size, c = h.channels;
  if (m < 1 || c < 1 || m * m > kMaxBlockLength || m * m * c > kMaxBlockLength) {
    fail("expected a block of 1 to " + std::to_string(kMaxBlockLength) + " values");
  }
  if (h.tables < 0 || h.tables > kMaxTables || h.flags < 0 || h.flags > kAllFlags ||
      (h.flags & kNibbles && (!(h.flags & kQuantises) || h.flags & kDecimalIn))) {
    fail("no plan has " + std::to_string(h.tables) + " tables and the flags " + std::to_string(h.flags));
  }
  const int64_t cells = h.flags & kNibbles ? 2 * m * m * c : m * m * c;
  const bool grid = h.rows >= 1 && h.columns >= 1;
  if (h.variants < 1 || h.keys < 1 || h.images < 0 || h.images > kMaxBlocks ||
      h.variants * cells > kMaxEntries ||
      (!grid && (h.rows != 0 || h.columns != 0 || h.variants != h.keys)) ||
      (grid &&
       (int64_t{h.rows} * h.columns > kMaxBlocks || int64_t{h.rows} * h.columns * h.keys > kMaxEntries)) ||
      (h.images == 0 && h.keys > 1)) {
    fail("no plan has " + std::to_string(h.variants) + " variants, " + std::to_string(h.keys) + " keys, " +
         std::to_string(h.images) + " images and a grid of " + std::to_string(h.rows) + " x " +
         std::to_string(h.columns));
  }
  Plan plan;
  const int64_t expected = unpack_plan(h, nullptr, &plan);
  if (h.bytes != expected || bytes != expected) {
    fail("expected " + std::to_string(expected) + " bytes for what its header says, got " +
         std::to_string(bytes));
  }
}

// A shape of three numbers is one image, a batch of one. plan: where the packed plan begins, on the device
// that works; header: a copy of its first kHeaderBytes in the memory of the host. Throws
// std::invalid_argument naming the argument.
inline Job make_job(uintptr_t in, uintptr_t out, int in_type, int out_type, const std::vector<int64_t>& shape,
                    const std::vector<int64_t>& in_stride, const std::vector<int64_t>& out_stride,
                    uintptr_t plan, int64_t plan_bytes, const void* header) {
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
  if (plan_bytes < kHeaderBytes) {
    throw std::invalid_argument("plan: expected a packed plan, got " + std::to_string(plan_bytes) + " bytes");
  }
  std::memcpy(&job.header, header, sizeof job.header);
  check_header(job.header, plan_bytes);
  const Header& h = job.header;
  if (sizes[1] != h.channels || sizes[2] % h.block_size || sizes[3] % h.block_size ||
      (h.rows && (sizes[2] / h.block_size != h.rows || sizes[3] / h.block_size != h.columns)) ||
      (h.images && sizes[0] != h.images)) {
    throw std::invalid_argument("plan: it is not for images of this number and shape");
  }
  job.packed = reinterpret_cast<const void*>(plan);
  unpack_plan(h, job.packed, &job.plan);
  job.in = reinterpret_cast<const void*>(in);
  job.out = reinterpret_cast<void*>(out);
  job.in_type = static_cast<Type>(in_type);
  job.out_type = static_cast<Type>(out_type);
  job.n = sizes[0];
  job.h = sizes[2];
  job.w = sizes[3];
  return job;
}

}  // namespace blockenc
