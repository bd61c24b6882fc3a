// The threads of this library. It cannot use torch's: the extension is free of torch, and torch's threads do
// not exist in a forked child.

#pragma once

#include <cstdint>
#include <functional>

namespace blockenc {

// Calls do_task(k) once for each k in [0, tasks), on at most `threads` threads, the caller's included.
// Returns when all tasks are done; throws what one of them threw. While one call uses the pool, another does
// its tasks on its caller's thread alone.
void in_parallel(int64_t tasks, int threads, const std::function<void(int64_t)>& do_task);

}  // namespace blockenc
