// The instruction-set levels and their dispatch. Adding one: a file with its kernel, a row in dispatch.cpp.

#pragma once

#include "plan.h"

namespace blockenc {

struct Level {
  const char* name;
  bool (*supported)();
  // Work on the rows of blocks [first, last) of the job; row r is block row r % (h/M) of image r / (h/M).
  void (*run)(const Job& job, int64_t first, int64_t last);
};

void run_portable(const Job& job, int64_t first, int64_t last);
void run_avx512(const Job& job, int64_t first, int64_t last);
void run_avx2(const Job& job, int64_t first, int64_t last);
void run_neon(const Job& job, int64_t first, int64_t last);

// The levels this build has, the fastest first; `count` of them.
const Level* levels(int* count);

// Applies the plan on at most `threads` threads. level: an index into levels(), or -1 for the fastest
// supported. Throws std::invalid_argument where the plan or the level cannot be used.
void apply(const Job& job, int threads, int level);

}  // namespace blockenc
