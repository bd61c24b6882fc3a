// The kernel in standard C++: every value type, layout and size, one value at a time. Only masks are applied
// eight bytes at a time.

#include <algorithm>
#include <cstring>
#include <vector>

#include "../values.h"
#include "kernels.h"

namespace blockenc {
namespace {

// As much of a `Vector` as masks-inl.h needs.
struct Vector {
  using type = uint64_t;
  static constexpr int bytes = 8, max_part_bytes = 16;
  static constexpr bool has_stream = false, has_fast_permute = false;
  static type load(const void* from) {
    type x;
    std::memcpy(&x, from, bytes);
    return x;
  }
  static void store(void* to, type x) { std::memcpy(to, &x, bytes); }
  static void stream(void* to, type x) { store(to, x); }
  static void fence() {}
  static void prefetch(const void*) {}
  static type exclusive_or(type a, type b) { return a ^ b; }
};

}  // namespace
}  // namespace blockenc

#include "simd/floats-inl.h"
#include "simd/masks-inl.h"

namespace blockenc {
namespace {

// Where each position of a block is, in elements from the block's first pixel: the same for every block.
std::vector<int64_t> offsets(const Plan& plan, const int64_t* stride) {
  const int m = plan.block_size, c = plan.channels;
  std::vector<int64_t> offset(plan.length);
  for (int p = 0; p < plan.length; ++p) {
    offset[p] = p % c * stride[1] + p / c / m * stride[2] + p / c % m * stride[3];
  }
  return offset;
}

// Goes through a block row variant by variant, and for each position by position, each for all blocks of that
// variant, so that what a position needs stays in registers.
template <class In, class Out>
class PortableKernel : public Kernel {
  using InStorage = typename In::Storage;
  using OutStorage = typename Out::Storage;

 public:
  explicit PortableKernel(const Plan& plan)
      : plan_(plan),
        tables_(plan, !(plan.flags & kNibbles) && (kInteger<In> || plan.flags & kNearest)),
        negatives_(plan) {}

  void run(const Job& job, int64_t first, int64_t last) const override {
    if (plan_.is_uniform() && !(plan_.flags & kNibbles)) return run_uniform(job, first, last);
    const std::vector<int64_t> in_offset = offsets(plan_, job.in_stride);
    const std::vector<int64_t> out_offset = offsets(plan_, job.out_stride);
    const int64_t m = plan_.block_size, block_rows = job.h / m, columns = job.w / m;
    std::vector<Block> blocks(columns);
    for (int64_t r = first; r < last; ++r) {
      place_blocks(job, r / block_rows, r % block_rows, &blocks);
      for (int64_t begin = 0, end = 0; begin < columns; begin = end) {
        while (end < columns && blocks[end].variant == blocks[begin].variant) ++end;
        const Block* run = blocks.data() + begin;
        if (plan_.flags & kNibbles) {
          move_nibbles(run, end - begin, in_offset.data(), out_offset.data());
        } else {
          move_values(run, end - begin, in_offset.data(), out_offset.data());
        }
      }
    }
  }

 private:
  // A block of the output, with the block of the input that it is made of.
  struct Block {
    int64_t variant;
    const InStorage* in;
    OutStorage* out;
  };

  // Uniform plans need no list of blocks. The inner functions capture by value: to the compiler a store of a
  // byte may change anything that is referred to, which it would load again and again.
  void run_uniform(const Job& job, int64_t first, int64_t last) const {
    const std::vector<int64_t> in_offset = offsets(plan_, job.in_stride);
    const std::vector<int64_t> out_offset = offsets(plan_, job.out_stride);
    const int64_t m = plan_.block_size, block_rows = job.h / m, blocks = job.w / m;
    const int64_t in_step = m * job.in_stride[3], out_step = m * job.out_stride[3];
    for (int64_t r = first; r < last; ++r) {
      const int64_t image = r / block_rows, pixel_row = r % block_rows * m;
      const auto* in =
          static_cast<const InStorage*>(job.in) + image * job.in_stride[0] + pixel_row * job.in_stride[2];
      auto* out =
          static_cast<OutStorage*>(job.out) + image * job.out_stride[0] + pixel_row * job.out_stride[2];
      for (int p = 0; p < plan_.length; ++p) {
        const InStorage* from = in + in_offset[plan_.source[p]];
        OutStorage* to = out + out_offset[p];
        transform(
            p, blocks, [=](int64_t b) { return from[b * in_step]; },
            [=](int64_t b, auto v) { to[b * out_step] = v; });
      }
    }
  }

  // The blocks of a block row, those of a variant together.
  void place_blocks(const Job& job, int64_t image, int64_t block_row, std::vector<Block>* blocks) const {
    const int64_t m = plan_.block_size, columns = job.w / m, first = block_row * columns;
    const int64_t key = plan_.images ? plan_.key_of_image[image] : 0;
    const auto* in = static_cast<const InStorage*>(job.in) + image * job.in_stride[0];
    auto* out =
        static_cast<OutStorage*>(job.out) + image * job.out_stride[0] + block_row * m * job.out_stride[2];
    for (int64_t b = 0; b < columns; ++b) {
      const int64_t g = first + b;
      const int64_t from = plan_.grid_rows ? plan_.moves[key * plan_.blocks() + g] : g;
      const int64_t variant = plan_.grid_rows ? plan_.variant[key * plan_.blocks() + g] : key;
      (*blocks)[b] = {variant,
                      in + from / columns * m * job.in_stride[2] + from % columns * m * job.in_stride[3],
                      out + b * m * job.out_stride[3]};
    }
    std::stable_sort(blocks->begin(), blocks->end(),
                     [](const Block& a, const Block& b) { return a.variant < b.variant; });
  }

  void move_values(const Block* blocks, int64_t count, const int64_t* in_offset,
                   const int64_t* out_offset) const {
    const int64_t start = blocks->variant * plan_.length;
    for (int p = 0; p < plan_.length; ++p) {
      const int64_t from = in_offset[plan_.source[start + p]], to = out_offset[p];
      transform(
          start + p, count, [=](int64_t b) { return blocks[b].in[from]; },
          [=](int64_t b, auto v) { blocks[b].out[to] = v; });
    }
  }

  void move_nibbles(const Block* blocks, int64_t count, const int64_t* in_offset,
                    const int64_t* out_offset) const {
    const int length = plan_.length;
    const int32_t* source = plan_.source + blocks->variant * plan_.cells;
    const uint8_t* flips = plan_.flips + blocks->variant * plan_.cells;
    for (int p = 0; p < length; ++p) {
      const int32_t low = source[p], high = source[length + p];
      const int64_t low_from = in_offset[low % length], high_from = in_offset[high % length];
      const int low_shift = low < length ? 0 : 4, high_shift = high < length ? 0 : 4;
      const int mask = (flips[p] & 1 ? 15 : 0) | (flips[length + p] & 1 ? 15 : 0) << 4;
      const auto* table = tables_.table(blocks->variant * length + p);
      for (int64_t b = 0; b < count; ++b) {
        const int k = (integer(blocks[b].in[low_from]) >> low_shift & 15) |
                      (integer(blocks[b].in[high_from]) >> high_shift & 15) << 4;
        blocks[b].out[out_offset[p]] = table[k ^ mask];
      }
    }
  }

  // The integer that a value is, or becomes.
  int integer(InStorage value) const {
    if constexpr (kInteger<In>) {
      return std::min(In::load(value), tables_.last_value());
    } else {
      return static_cast<int>(quantise(In::load(value), *plan_.in_scale, plan_.flags & kNearest));
    }
  }

  // At position p (counted as in LookupTables): put(b, ...) of get(b) for each b below `count`.
  template <class Get, class Put>
  void transform(int64_t p, int64_t count, Get&& get, Put&& put) const {
    if constexpr (std::is_same_v<In, U8>) {  // every byte has an entry
      const auto* table = tables_.table(p);
#pragma GCC unroll 8
      for (int64_t b = 0; b < count; ++b) put(b, table[get(b)]);
    } else if constexpr (kInteger<In>) {
      const int last_value = tables_.last_value();
      const auto* table = tables_.table(p);
      for (int64_t b = 0; b < count; ++b) put(b, table[std::min(In::load(get(b)), last_value)]);
    } else {
      transform_floats<In, Out>(plan_, tables_, negatives_, p, count, get, put);
    }
  }

  const Plan& plan_;
  LookupTables<Out> tables_;
  Negatives<In> negatives_;
};

}  // namespace

std::unique_ptr<const Kernel> make_portable(const Plan& plan, Type in, Type out, Layout layout) {
  std::unique_ptr<const Kernel> kernel;
  if (!plan.is_uniform() && in == Type::u8 && out == Type::u8 && layout != Layout::any) {
    kernel = MaskKernel::make(plan, layout == Layout::planar);
    if (kernel) return kernel;
  }
  with_types(in, out, [&](auto in_type, auto out_type) {
    kernel = std::make_unique<PortableKernel<decltype(in_type), decltype(out_type)>>(plan);
  });
  return kernel;
}

}  // namespace blockenc
