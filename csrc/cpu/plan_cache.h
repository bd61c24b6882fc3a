// What is kept of plans between calls.

#pragma once

#include <cstdint>

#include "../plan.h"

namespace blockenc {

// Runs a job on at most `threads` threads. level: an index into levels(), or -1 for the fastest supported
// one. A copy of the plan and the kernels made for it are kept for the process: the next job whose plan has
// the same bytes uses them again, whoever's it is. Throws std::invalid_argument where the plan or the level
// cannot be used. Many threads may call this at once, and the process may fork meanwhile.
void run_job(Job job, int threads, int level);

// How many plans are kept now, and the bytes of their packed forms.
struct Kept {
  int64_t plans, bytes;
};
Kept kept_plans();

}  // namespace blockenc
