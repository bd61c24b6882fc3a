// The instruction-set levels and their dispatch. Adding one: a file with its kernel, a row in dispatch.cpp.

#pragma once

#include <cstdint>
#include <memory>

#include "../plan.h"

namespace blockenc {

// How the pixels of a row follow each other, in the input and the output.
enum class Layout { planar, interleaved, any };

// A plan made ready for a level, value types and a layout; threads share it. Refers to the plan.
class Kernel {
 public:
  virtual ~Kernel() = default;
  // Works on the rows of blocks [first, last) of the job; row r is block row r % (h/M) of image r / (h/M).
  virtual void run(const Job& job, int64_t first, int64_t last) const = 0;
};

struct Level {
  const char* name;
  bool (*supported)();
  std::unique_ptr<const Kernel> (*make)(const Plan& plan, Type in, Type out, Layout layout);
};

std::unique_ptr<const Kernel> make_portable(const Plan& plan, Type in, Type out, Layout layout = Layout::any);
std::unique_ptr<const Kernel> make_avx512_vbmi(const Plan& plan, Type in, Type out, Layout layout);
std::unique_ptr<const Kernel> make_avx2(const Plan& plan, Type in, Type out, Layout layout);
std::unique_ptr<const Kernel> make_neon(const Plan& plan, Type in, Type out, Layout layout);

// The levels this build has, the fastest first; `count` of them.
const Level* levels(int* count);

// The level of an index into levels(), or for -1 the fastest that this processor supports. Throws
// std::invalid_argument where there is none, or where this processor does not support it.
const Level& choose_level(int level);

Layout layout_of(const Job& job);

// Runs a kernel over the whole job, on at most `threads` threads.
void run_kernel(const Kernel& kernel, const Job& job, int threads);

}  // namespace blockenc
