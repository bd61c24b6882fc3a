// The kernel for plans whose blocks move, or are transformed in several ways: groups of blocks of one variant
// are transposed to columns and back (transposition-inl.h), each block from where it lies in the input to
// where it belongs in the output.
//
// A *slab* is the same range of blocks of some images. It fits in the second-level cache, so that its cache
// lines, of which a block is only a part, come from memory once. Where a plan has many variants, as with a
// key for each block, a group is made of the same block of many images.
//
// Included by kernels-inl.h.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "blocks-inl.h"
#include "transposition-inl.h"

namespace blockenc {
namespace {

constexpr int64_t kMaxSlabBytes = 192 * 1024;     // of the input or the output, whichever is larger
constexpr int64_t kMaxMappedPositions = 1 << 20;  // of all variants, each of which takes some 20 bytes
constexpr int kMinPartBytes = 2;                  // of a block in a vector: single bytes are not worth it

template <class In, class Out, class Map>
class GroupKernel : public Kernel {
  using Blocks = Transposer<In, Out>;
  static constexpr int in_bytes = Blocks::in_bytes, out_bytes = Blocks::out_bytes, kGroup = Blocks::kGroup;

 public:
  // Null if it is not for this plan.
  static std::unique_ptr<const Kernel> make(const Plan& plan, bool planar) {
    if (plan.positions() > kMaxMappedPositions) return nullptr;
    const BlockLayout in(plan, in_bytes, planar, true), out(plan, out_bytes, planar, true);
    if (in.columns * in_bytes < kMinPartBytes || out.columns * out_bytes < kMinPartBytes) return nullptr;
    return std::make_unique<GroupKernel>(plan, in, out);
  }

  GroupKernel(const Plan& plan, const BlockLayout& in, const BlockLayout& out)
      : plan_(plan),
        blocks_(in, out),
        still_(is_still(plan)),
        portable_(make_portable(plan, In::type, Out::type)) {
    variants_.reserve(plan.variants);
    maps_.reserve(plan.variants);
    for (int64_t v = 0; v < plan.variants; ++v) {
      variants_.push_back(plan.of_variant(v));
      maps_.emplace_back(in_, out_, variants_.back());
      map_columns_ = std::max(map_columns_, maps_.back().columns);
    }
  }

  int64_t units(const Job& job) const override {
    const Slabs slabs(plan_, job);
    return slabs.fills_groups() ? slabs.count() : Kernel::units(job);
  }

  void run(const Job& job, int64_t first, int64_t last) const override {
    const Slabs slabs(plan_, job);
    if (!slabs.fills_groups()) return portable_->run(job, first, last);
    static thread_local Workspace kept;
    Workspace& work = kept;
    prepare(job, &work);
    for (int64_t s = first; s < last; ++s) {
      work.prefetches.clear();
      const Slab slab = slabs.get(s);
      if (s + 1 < last) queue_prefetches(job, slabs.get(s + 1), &work);
      run_slab(job, slab, &work);
    }
  }

 private:
  // Blocks [first_block, end_block) of images [first_image, end_image).
  struct Slab {
    int64_t first_image, end_image, first_block, end_block;
    int64_t images() const { return end_image - first_image; }
    int64_t blocks() const { return end_block - first_block; }
  };

  // How a job is cut into slabs: range after range of blocks of some images, then of the next ones.
  struct Slabs {
    int64_t all_images, all_blocks, images, blocks, key_variants;

    Slabs(const Plan& plan, const Job& job)
        : all_images(job.n),
          all_blocks(plan.blocks()),
          key_variants((plan.variants + plan.keys - 1) / plan.keys) {
      const int64_t most =
          std::max<int64_t>(kMaxSlabBytes / (plan.length * std::max(in_bytes, out_bytes)), 1);
      images = 1;
      if (key_variants > 1 && plan.keys == 1) images = std::min<int64_t>(job.n, kGroup);
      blocks = std::clamp<int64_t>(most / images, 1, all_blocks);
      // Whole block rows, or at least whole cache lines.
      const int64_t row = plan.grid_columns, line = std::min<int64_t>(kCacheLine / plan.block_size + 1, row);
      blocks = std::min(blocks > row ? blocks / row * row : std::max(blocks, line), all_blocks);
    }

    int64_t ranges() const { return (all_blocks + blocks - 1) / blocks; }
    int64_t count() const { return (all_images + images - 1) / images * ranges(); }
    Slab get(int64_t s) const {
      const int64_t image = s / ranges() * images, block = s % ranges() * blocks;
      return {image, std::min(image + images, all_images), block, std::min(block + blocks, all_blocks)};
    }
    // Whether the blocks of a variant in a slab are enough that groups are better than single blocks.
    bool fills_groups() const { return images * blocks >= std::min(key_variants, blocks) * (kGroup / 4); }
  };

  struct Block {
    int32_t variant, number;
    bool operator<(const Block& other) const { return variant < other.variant; }
  };

  // The memory that a thread works in, kept for its next call.
  struct Workspace {
    std::vector<int64_t> in_blocks, out_blocks;  // where each block of an image begins, in elements
    std::vector<int64_t> in_lines, out_lines;    // where each line begins in its block, in bytes
    std::vector<Block> order;                    // the blocks of a slab in one image, by variant
    std::vector<const char*> in;                 // of the blocks of some groups
    std::vector<char*> out;
    PrefetchQueue prefetches;
    WriteQueue writes;  // nothing: blocks are stored where they belong
    std::vector<char> memory;
    Scratch scratch;
  };

  void prepare(const Job& job, Workspace* work) const {
    work->in_blocks = block_offsets(plan_, job.in_stride);
    work->out_blocks = block_offsets(plan_, job.out_stride);
    work->in_lines = in_.line_offsets(job.in_stride);
    work->out_lines = out_.line_offsets(job.out_stride);
    const int64_t group_bytes = int64_t{in_.lines * in_.columns + map_columns_} * kGroup * in_bytes;
    const int64_t groups = std::clamp<int64_t>(kScratchBytes / group_bytes, 1, kMaxGroups);
    work->scratch = {aligned_room(&work->memory, groups * group_bytes), group_bytes, groups};
    work->in.resize(groups * kGroup);
    work->out.resize(groups * kGroup);
  }

  void run_slab(const Job& job, const Slab& slab, Workspace* work) const {
    const BlockMap map(plan_, slab.first_image);
    auto& order = work->order;
    order.clear();
    for (int64_t g = slab.first_block; g < slab.end_block; ++g) {
      order.push_back({map.variant[g], static_cast<int32_t>(g)});
    }
    if (!std::is_sorted(order.begin(), order.end())) std::stable_sort(order.begin(), order.end());
    const int64_t room = static_cast<int64_t>(work->in.size());
    work->prefetches.set_steps((slab.images() * slab.blocks() + room - 1) / room * (in_.lines + out_.lines));
    for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
      while (end < order.size() && order[end].variant == order[begin].variant) ++end;
      const Map& values = maps_[order[begin].variant];
      int64_t count = 0;
      for (int64_t image = slab.first_image; image < slab.end_image; ++image) {
        const char* const in = static_cast<const char*>(job.in) + image * job.in_stride[0] * in_bytes;
        char* const out = static_cast<char*>(job.out) + image * job.out_stride[0] * out_bytes;
        for (size_t k = begin; k < end; ++k) {
          const int32_t g = order[k].number;
          work->in[count] = in + work->in_blocks[map.moves[g]] * in_bytes;
          work->out[count] = out + work->out_blocks[g] * out_bytes;
          if (++count == room) run_groups(values, count, work), count = 0;
        }
      }
      if (count > 0) run_groups(values, count, work);
    }
  }

  // The last block is repeated to fill the last group.
  void run_groups(const Map& values, int64_t count, Workspace* work) const {
    Scratch scratch = work->scratch;
    scratch.groups = (count + kGroup - 1) / kGroup;
    std::fill(work->in.begin() + count, work->in.begin() + scratch.groups * kGroup, work->in[count - 1]);
    std::fill(work->out.begin() + count, work->out.begin() + scratch.groups * kGroup, work->out[count - 1]);
    const Traffic traffic{work->prefetches, work->writes};
    (blocks_.*passes_.to_columns)(work->in.data(), work->in_lines.data(), scratch, traffic);
    values.prepare(scratch);
    (blocks_.*passes_.from_columns)(values, scratch, work->out.data(), work->out_lines.data(), traffic);
  }

  // Where blocks move, only a slab of whole images says which part of the input the next one reads.
  void queue_prefetches(const Job& job, const Slab& next, Workspace* work) const {
    if (!still_ && next.blocks() < plan_.blocks()) return;
    const int64_t columns = plan_.grid_columns, row_stride = job.in_stride[2] * in_bytes;
    for (int64_t image = next.first_image; image < next.end_image; ++image) {
      const char* const from = static_cast<const char*>(job.in) + image * job.in_stride[0] * in_bytes;
      for (int channel = 0; channel < (in_.planar ? in_.channels : 1); ++channel) {
        for (int64_t begin = next.first_block, end; begin < next.end_block; begin = end) {
          end = std::min((begin / columns + 1) * columns, next.end_block);
          const char* at = from + channel * job.in_stride[1] * in_bytes + work->in_blocks[begin] * in_bytes;
          work->prefetches.add_rows(at, row_stride, in_.m, (end - begin) * in_.row_bytes());
        }
      }
    }
  }

  const Plan& plan_;
  const Blocks blocks_;
  const BlockLayout &in_ = blocks_.in, &out_ = blocks_.out;
  const typename Blocks::template Passes<Map> passes_ = blocks_.template passes_of_single_blocks<Map>();
  std::vector<Plan> variants_;  // as plans of their own
  std::vector<Map> maps_;       // of each variant
  int map_columns_ = 0;         // the most that one of the maps needs
  const bool still_;            // whether no block moves
  std::unique_ptr<const Kernel> portable_;
};

}  // namespace
}  // namespace blockenc
