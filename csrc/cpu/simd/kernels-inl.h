// Which of the kernels of an instruction set a plan gets.
//
// Each file of an instruction set includes this one after it has chosen its target and defined `Vector`, with
//   type, bytes                 the vector; its size
//   max_part_bytes              the most that load_parts<n> takes from one place: kLane or 2 * kLane; where
//                               has_fast_permute is set, a whole vector too
//   load, store                 of a whole vector, at any address
//   load_parts<n>               the same in n equal parts, at parts[0] + offset, ..., parts[n - 1] + offset
//   store_parts<n>
//   has_stream, stream, fence   whether there are stores past the caches; one, aligned; what orders them
//   prefetch                    a cache line, into the second-level cache
//   broadcast(lane)             16 bytes to every lane
//   shuffle_bytes(x, from)      byte j of a lane is byte from[j] of that lane of x
//   interleave_lower<size>      items of `size` bytes of the lower halves of the lanes of a and b in turn,
//   interleave_upper<size>      or of the upper halves
//   exclusive_or, bitwise_and, bitwise_or
//   shift_left, shift_right     every byte by as many bits; bits of its neighbours may come in
//   from_lanes, lane<k>         a vector of lanes, and a lane of a vector
//   Table, lookup(table, x)     256 bytes, and a table lookup of every byte of x in them
//   has_fast_lookup             whether four of these take less time than computing a float32
//   permute(x, from)            byte j of the vector is byte from[j] of it
//   has_fast_permute            whether that takes less time than to load or store the lanes one by one
//   lookup_in(lanes, x)         a table lookup of bits 0 to 5 of every byte of x in one to four lanes
//   choose(x, a, b)             a where the top bit of a byte of x is set, else b
//   splat(byte)                 the byte, as often as there is room for it
// and `Lane`, 16 bytes, with
//   load_part, store_part       the first bytes alone: 1, 2, 4, 8 or 16
//   shift_down<n>               byte j becomes byte j - n
//   interleave_lower<size>      items of up to 8 bytes
//   load, store, shuffle_bytes, interleave_upper, exclusive_or        as of `Vector`
// Everything is in an unnamed namespace, since each of these files compiles it for its own instruction set.

#pragma once

#include "columns-inl.h"
#include "groups-inl.h"
#include "masks-inl.h"
#include "permutations-inl.h"
#include "tiles-inl.h"

namespace blockenc {
namespace {

// What the first of these kernels makes that is for the plan; null if none is.
template <class... Kernels>
std::unique_ptr<const Kernel> first_for(const Plan& plan, bool planar) {
  std::unique_ptr<const Kernel> kernel;
  ((kernel = kernel ? std::move(kernel) : Kernels::make(plan, planar)), ...);
  return kernel;
}
template <int part, bool nibbles>
using PermutationKernel = BlockKernel<PermutationMover<part, nibbles>>;
template <int side>
using TileKernel = BlockKernel<TileMover<side>>;

// Level::make for `Vector`.
std::unique_ptr<const Kernel> make_kernel(const Plan& plan, Type in, Type out, Layout layout) {
  std::unique_ptr<const Kernel> kernel;
  const bool planar = layout == Layout::planar;
  with_types(in, out, [&](auto in_type, auto out_type) {
    using In = decltype(in_type);
    using Out = decltype(out_type);
    if (layout == Layout::any) return;
    constexpr bool kBytes = kByteLookups<In, Out>;
    if (plan.flags & kNibbles) {
      if constexpr (kBytes) {
        if (substitutes(plan)) return;
        if (plan.is_uniform()) {
          kernel = std::make_unique<ColumnKernel<In, Out, NibbleMap>>(plan, planar);
        } else {
          kernel = first_for<MaskKernel, PermutationKernel<4, true>, PermutationKernel<8, true>,
                             PermutationKernel<16, true>, GroupKernel<In, Out, NibbleMap>>(plan, planar);
        }
      }
    } else if constexpr (kBytes || kWideLookups<In, Out> || !kInteger<In>) {
      with_map<In, Out>(plan, [&](auto map) {
        using Map = typename decltype(map)::type;
        if (plan.is_uniform()) {
          kernel = std::make_unique<ColumnKernel<In, Out, Map>>(plan, planar);
        } else if constexpr (kBytes) {
          kernel =
              first_for<MaskKernel, TileKernel<16>, TileKernel<8>, PermutationKernel<4, false>,
                        PermutationKernel<8, false>, PermutationKernel<16, false>, GroupKernel<In, Out, Map>>(
                  plan, planar);
        } else if constexpr (kWideLookups<In, Out>) {
          kernel = GroupKernel<In, Out, Map>::make(plan, planar);
        }
      });
    }
  });
  return kernel ? std::move(kernel) : make_portable(plan, in, out);
}

}  // namespace
}  // namespace blockenc
