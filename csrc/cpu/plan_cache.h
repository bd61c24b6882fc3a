// What a call keeps of its plan for later calls.

#pragma once

#include <cstdint>
#include <memory>

#include "../plan.h"

namespace blockenc {

// Runs jobs. Keeps a copy of the last plan and the kernels made for it; the next job whose plan has the same
// bytes uses them again. Many threads may use one cache at once, and the process may fork meanwhile.
class PlanCache {
 public:
  // Runs a job on at most `threads` threads. level: an index into levels(), or -1 for the fastest supported
  // one. Throws std::invalid_argument where the plan or the level cannot be used.
  void run(Job job, int64_t plan_bytes, int threads, int level);

 private:
  struct Entry;
  std::shared_ptr<Entry> last_;  // under state_lock()
};

}  // namespace blockenc
