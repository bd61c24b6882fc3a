// What calls keep of a plan for later calls.

#pragma once

#include <cstdint>
#include <memory>

#include "../plan.h"

namespace blockenc {

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
