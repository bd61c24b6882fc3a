// Threads that wait for work, of this library alone: torch's own are out of reach of a torch-free extension,
// and die in a fork.

#pragma once

#include <cstdint>
#include <functional>

namespace blockenc {

// Calls work(k) once for each k in [0, pieces), on at most `threads` threads, this one included; returns
// when all are done, and throws what one of them threw. A call that comes while another has the pool works
// alone.
void in_parallel(int64_t pieces, int threads, const std::function<void(int64_t)>& work);

}  // namespace blockenc
