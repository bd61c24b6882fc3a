// The launcher, free of CUDA headers, so that python/cuda.cpp needs none.

#pragma once

#include <cstdint>
#include <string>

#include "../plan.h"
#include "tuning.h"

namespace blockenc {

// Why no kernel can run here; "" if one can. Asks the driver, launches nothing.
std::string cuda_missing();

// Enqueues the job on a stream of a device and returns: no synchronisation, no allocation, so it may be
// captured in a graph. The plan is in device memory. Throws std::runtime_error naming the cause, and
// std::invalid_argument for a tuning that the kernels do not have.
void launch(const Job& job, int device, uintptr_t stream, const Tuning& tuning);

}  // namespace blockenc
