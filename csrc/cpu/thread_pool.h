// The threads of this library. It cannot use torch's: the extension is free of torch, and torch's threads do
// not exist in a forked child.

#pragma once

#include <cstdint>
#include <functional>

namespace blockenc {

// Calls do_task(k) once for each k in [0, tasks), on at most `threads` threads, the caller's included.
// Returns when all tasks are done; throws what one of them threw. While one call uses the pool, another does
// its tasks on its caller's thread alone.
// wakes: whether the tasks take longer than waking a thread. If not, only calls in a loop share them, after
// the first few, with threads that the call before left awake.
void in_parallel(int64_t tasks, int threads, const std::function<void(int64_t)>& do_task, bool wakes = true);

}  // namespace blockenc
