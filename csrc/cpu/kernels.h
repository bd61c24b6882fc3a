// The kernels of this processor, one for each instruction-set level, and the choice among them.

#pragma once

#include <cstdint>
#include <memory>

#include "../plan.h"
#include "simd/instruction_sets.h"

namespace blockenc {

// How the values of a pixel row follow each other in memory, in the input and in the output alike.
enum class Layout { planar, interleaved, any };

// What a level makes of a plan, for two value types and a layout. It refers to the plan, and threads share
// it.
class Kernel {
 public:
  virtual ~Kernel() = default;
  // How many units the job has, which threads share among them. Unless a kernel cuts it in another way, a
  // unit is a block row, that is one row of blocks of one image: number r is block row r % (h / M) of image
  // r / (h / M).
  virtual int64_t units(const Job& job) const { return job.n * (job.h / job.plan.block_size); }
  // Transforms the units [first, last) of the job.
  virtual void run(const Job& job, int64_t first, int64_t last) const = 0;
};

struct Level {
  const char* name;
  bool (*supported)();
  std::unique_ptr<const Kernel> (*make)(const Plan& plan, Type in, Type out, Layout layout);
};

// The kernel for a plan: that of image_keys.cpp if every image has a key of its own and no block moves, for
// which levels have none; else the level's.
std::unique_ptr<const Kernel> kernel_for(const Level& level, const Plan& plan, Type in, Type out,
                                         Layout layout);

std::unique_ptr<const Kernel> make_portable(const Plan& plan, Type in, Type out, Layout layout = Layout::any);
#define BLOCKENC_DECLARE(name, supported) \
  std::unique_ptr<const Kernel> make_##name(const Plan& plan, Type in, Type out, Layout layout);
BLOCKENC_INSTRUCTION_SETS(BLOCKENC_DECLARE)
#undef BLOCKENC_DECLARE

// The levels this build has, the fastest first; `count` of them.
const Level* levels(int* count);

// levels()[level], or for -1 the fastest level that this processor supports. Throws std::invalid_argument
// where there is no such level, or this processor does not support it.
const Level& choose_level(int level);

Layout layout_of(const Job& job);

// Runs a kernel over the whole job, on at most `threads` threads.
void run_kernel(const Kernel& kernel, const Job& job, int threads);

}  // namespace blockenc
