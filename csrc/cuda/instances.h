// Which instances of the tile kernel there are, and which one a job takes. Shared by the launcher and the
// emulation, so that what is emulated is what is launched.

#pragma once

#include <cstdint>
#include <type_traits>

#include "../plan.h"

namespace blockenc {

// Calls f.template run<In, Out, kFloat>() with the types of storage of the job.
template <class F>
auto with_instance(const Job& job, F f) {
  auto out = [&](auto in, auto is_float) {
    using In = decltype(in);
    constexpr bool kFloat = decltype(is_float)::value;
    switch (item_size(job.out_type)) {
      case 1:
        return f.template run<In, uint8_t, kFloat>();
      case 2:
        return f.template run<In, uint16_t, kFloat>();
      default:
        return f.template run<In, uint32_t, kFloat>();
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

}  // namespace blockenc
