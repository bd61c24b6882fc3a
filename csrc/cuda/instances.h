// Which kernel a job takes, and which instance of it. Shared by the launcher and the emulation, so that what
// is emulated is what is launched.

#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "chunking.h"
#include "indexing.h"
#include "tiling.h"

namespace blockenc {

// Calls f.template tiles<uint8_t, uint8_t, false, kThreadCount, kPadded, kAhead>(tiling) if that is the
// instance asked for, and says whether it is.
template <int kThreadCount, bool kPadded, int kAhead, class F>
bool with_instance(const Tuning& tuning, const Tiling& tiling, const F& f) {
  if (tuning.threads != kThreadCount || tuning.padded != kPadded || tiling.ahead != kAhead) return false;
  f.template tiles<uint8_t, uint8_t, false, kThreadCount, kPadded, kAhead>(tiling);
  return true;
}

// The same with the instance that there is. Throws std::invalid_argument for a tuning that has none.
template <class F>
void with_tiles_of_bytes(const Tuning& tuning, const Tiling& tiling, const F& f) {
  if (!(with_instance<kThreads, false, 0>(tuning, tiling, f) ||  // the default
        with_instance<kThreads, false, 1>(tuning, tiling, f) ||
        with_instance<kThreads, false, 2>(tuning, tiling, f) ||
        with_instance<192, true, 0>(tuning, tiling, f) || with_instance<192, true, 2>(tuning, tiling, f) ||
        with_instance<kThreads, true, 0>(tuning, tiling, f) ||
        with_instance<kThreads, true, 1>(tuning, tiling, f) ||
        with_instance<384, true, 0>(tuning, tiling, f) || with_instance<384, true, 1>(tuning, tiling, f))) {
    throw std::invalid_argument("tuning: expected one with an instance (csrc/cuda/instances.h), got " +
                                std::to_string(tuning.threads) + " threads, " +
                                (tuning.padded ? "padded, " : "not padded, ") + std::to_string(tiling.ahead) +
                                " ahead");
  }
}

// Calls f.template tiles<In, Out, kFloat, kThreadCount, kPadded, kAhead>(tiling) with the types of storage of
// the job. Only bytes to bytes can be tuned.
template <class F>
void with_tiles(const Job& job, const Tuning& tuning, const Tiling& tiling, const F& f) {
  if (is_bytes(job)) return with_tiles_of_bytes(tuning, tiling, f);
  auto out = [&](auto in, auto is_float) {
    using In = decltype(in);
    constexpr bool kFloat = decltype(is_float)::value;
    switch (item_size(job.out_type)) {
      case 1:
        if constexpr (sizeof(In) > 1) f.template tiles<In, uint8_t, kFloat, kThreads, false, 0>(tiling);
        return;
      case 2:
        return f.template tiles<In, uint16_t, kFloat, kThreads, false, 0>(tiling);
      default:
        return f.template tiles<In, uint32_t, kFloat, kThreads, false, 0>(tiling);
    }
  };
  switch (job.in_type) {
    case Type::u8:
      return out(uint8_t{}, std::false_type{});
    case Type::u16:
      return out(uint16_t{}, std::false_type{});
    case Type::f32:
      return out(uint32_t{}, std::true_type{});
    default:
      return out(uint16_t{}, std::true_type{});
  }
}

// Calls f.template blocks<kBytes, kNibbles>(chunking).
template <class F>
void with_blocks(const Job& job, const Chunking& chunking, const F& f) {
  const bool bytes = is_bytes(job);
  if (job.plan.flags & kNibbles) {
    bytes ? f.template blocks<true, true>(chunking) : f.template blocks<false, true>(chunking);
  } else {
    bytes ? f.template blocks<true, false>(chunking) : f.template blocks<false, false>(chunking);
  }
}

// Calls what launches the kernel for the job: f.tiles or f.blocks (as above), or
// f.template elements<kWide>(indexing).
template <class F>
void with_kernel(const Job& job, const Tuning& tuning, const F& f) {
  Tiling tiling;
  Chunking chunking;
  if (make_tiling(job, tuning, &tiling)) {
    with_tiles(job, tuning, tiling, f);
  } else if (make_chunking(job, &chunking)) {
    with_blocks(job, chunking, f);
  } else {
    const Indexing indexing = make_indexing(job);
    is_wide(indexing) ? f.template elements<true>(indexing) : f.template elements<false>(indexing);
  }
}

}  // namespace blockenc
