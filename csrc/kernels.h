// The instruction-set levels and their dispatch. Adding one: a file with its kernel, a row in dispatch.cpp.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "plan.h"

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
std::unique_ptr<const Kernel> make_avx512(const Plan& plan, Type in, Type out, Layout layout);
std::unique_ptr<const Kernel> make_avx2(const Plan& plan, Type in, Type out, Layout layout);
std::unique_ptr<const Kernel> make_neon(const Plan& plan, Type in, Type out, Layout layout);

// The levels this build has, the fastest first; `count` of them.
const Level* levels(int* count);

// Applies plans, and keeps what it made ready of the last one: a job whose plan holds the same bytes finds it
// again. Many threads may use one Applier, and processes may fork meanwhile.
class Applier {
 public:
  // On at most `threads` threads. level: an index into levels(), or -1 for the fastest supported. Throws
  // std::invalid_argument where the plan or the level cannot be used.
  void apply(Job job, int64_t plan_bytes, int threads, int level);

 private:
  struct Ready;
  std::shared_ptr<Ready> ready_;  // under state_lock()
};

}  // namespace blockenc
