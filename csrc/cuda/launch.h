// The launcher, free of CUDA headers, so that python/cuda.cpp needs none.

#pragma once

#include <cstdint>
#include <string>

#include "../plan.h"

namespace blockenc {

// Why no kernel can run here; "" if one can. Asks the driver, launches nothing.
std::string cuda_missing();

// Enqueues the job on a stream of a device and returns: no synchronisation, no allocation, so it may be
// captured in a graph. The plan is in device memory. Throws std::runtime_error naming the cause.
void launch(const Job& job, int device, uintptr_t stream);

}  // namespace blockenc
