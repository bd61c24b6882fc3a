// The kernel in standard C++: every value type, layout and size, one value at a time.

#include <algorithm>
#include <cmath>
#include <vector>

#include "half.h"
#include "kernels.h"

namespace blockenc {
namespace {

// How a value type is loaded as, and stored from, a number.
struct U8 {
  using Storage = uint8_t;
  static int load(uint8_t v) { return v; }
  static uint8_t store(int v) { return static_cast<uint8_t>(v); }
};
struct U16 {
  using Storage = uint16_t;
  static int load(uint16_t v) { return v; }
  static uint16_t store(int v) { return static_cast<uint16_t>(v); }
};
struct F32 {
  using Storage = float;
  static float load(float v) { return v; }
  static float store(float v) { return v; }
};
struct F16 {
  using Storage = uint16_t;
  static float load(uint16_t v) { return f16_to_float(v); }
  static uint16_t store(float v) { return float_to_f16(v); }
};
struct BF16 {
  using Storage = uint16_t;
  static float load(uint16_t v) { return bf16_to_float(v); }
  static uint16_t store(float v) { return float_to_bf16(v); }
};

int substitute(const Plan& plan, int table, int k) {
  return table ? plan.tables[(table - 1) * plan.in_values + k] : std::min(k, plan.out_values - 1);
}

template <class In>
int to_integer(const Plan& plan, int flips, typename In::Storage stored) {
  if constexpr (std::is_same_v<In, U8> || std::is_same_v<In, U16>) {
    const int k = std::min(In::load(stored), plan.in_values - 1);
    return flips & 1 ? kByteValues - 1 - k : k;
  } else {
    float v = In::load(stored);
    for (; flips > 0; --flips) v = In::load(In::store(1.0f - v));
    // The comparisons send NaN to 0.
    const float clamped = v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f;
    const float scaled = clamped * *plan.in_scale;
    return static_cast<int>(plan.flags & kNearest ? std::nearbyintf(scaled) : scaled);
  }
}

template <class In, class Out>
typename Out::Storage transform(const Plan& plan, int p, int channel, typename In::Storage stored) {
  constexpr bool integer_in = std::is_same_v<In, U8> || std::is_same_v<In, U16>;
  constexpr bool integer_out = std::is_same_v<Out, U8> || std::is_same_v<Out, U16>;
  const int flips = plan.flips[p];
  if (integer_in || plan.flags & kQuantises) {
    const int k = substitute(plan, plan.table_of[p], to_integer<In>(plan, flips, stored));
    if constexpr (integer_out) {
      return Out::store(k);
    } else {
      return Out::store(plan.output[channel * plan.out_values + k]);
    }
  }
  if constexpr (!integer_in && !integer_out) {
    float v = In::load(stored);
    for (int f = 0; f < flips; ++f) v = In::load(In::store(1.0f - v));
    if (plan.flags & kNormalises) v = (v - plan.mean[channel]) / plan.std[channel];
    return Out::store(v);
  }
  return {};  // floats to integers without quantising: refused before a kernel runs
}

// What does not depend on the block: where each position is read and written, relative to the block.
struct Offsets {
  std::vector<int64_t> in, out;

  explicit Offsets(const Job& job) : in(job.plan.length), out(job.plan.length) {
    const int m = job.plan.block_size, c = job.plan.channels;
    auto offset = [&](int p, const int64_t* stride) {
      return p % c * stride[1] + p / c / m * stride[2] + p / c % m * stride[3];
    };
    for (int p = 0; p < job.plan.length; ++p) {
      in[p] = offset(job.plan.source[p], job.in_stride);
      out[p] = offset(p, job.out_stride);
    }
  }
};

template <class In, class Out>
void run(const Job& job, int64_t first, int64_t last) {
  const Offsets offsets(job);
  const Plan& plan = job.plan;
  const int m = plan.block_size;
  const int64_t block_rows = job.h / m, block_columns = job.w / m;
  const auto* in = static_cast<const typename In::Storage*>(job.in);
  auto* out = static_cast<typename Out::Storage*>(job.out);
  for (int64_t r = first; r < last; ++r) {
    const int64_t image = r / block_rows, row = r % block_rows * m;
    const auto* in_row = in + image * job.in_stride[0] + row * job.in_stride[2];
    auto* out_row = out + image * job.out_stride[0] + row * job.out_stride[2];
    for (int64_t b = 0; b < block_columns; ++b) {
      const auto* from = in_row + b * m * job.in_stride[3];
      auto* to = out_row + b * m * job.out_stride[3];
      for (int p = 0; p < plan.length; ++p) {
        to[offsets.out[p]] = transform<In, Out>(plan, p, p % plan.channels, from[offsets.in[p]]);
      }
    }
  }
}

template <class In>
void run_in(const Job& job, int64_t first, int64_t last) {
  switch (job.out_type) {
    case Type::u8:
      return run<In, U8>(job, first, last);
    case Type::u16:
      return run<In, U16>(job, first, last);
    case Type::f32:
      return run<In, F32>(job, first, last);
    case Type::f16:
      return run<In, F16>(job, first, last);
    case Type::bf16:
      return run<In, BF16>(job, first, last);
  }
}

}  // namespace

void run_portable(const Job& job, int64_t first, int64_t last) {
  switch (job.in_type) {
    case Type::u8:
      return run_in<U8>(job, first, last);
    case Type::u16:
      return run_in<U16>(job, first, last);
    case Type::f32:
      return run_in<F32>(job, first, last);
    case Type::f16:
      return run_in<F16>(job, first, last);
    case Type::bf16:
      return run_in<BF16>(job, first, last);
  }
}

}  // namespace blockenc
