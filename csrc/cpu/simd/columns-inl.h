// The kernel for plans that treat all blocks alike: blocks to columns, and columns to blocks
// (transposition-inl.h).
//
// It transposes a group of blocks to columns in scratch memory, which fits in the first- or second-level
// cache, changes the values (value_maps-inl.h), and transposes the columns back to blocks, in the order of
// the output (where the blocks lie: row_tiling-inl.h). Each byte is loaded from the input once, and stored in
// the output once.
//
// Included by kernels-inl.h.

#pragma once

#include "../kernels.h"
#include "transposition-inl.h"

namespace blockenc {
namespace {

// The memory that a thread works in, kept for its next call.
struct Workspace {
  Chunk now, next;
  StagingBuffer staging;       // of the chunk in work
  StagingBuffer last_staging;  // of the chunk before, which is being written to the output
  BlockRowOffsets in, out;
  std::vector<char> memory;
};

template <class In, class Out, class Map>
class ColumnKernel : public Kernel {
  using Blocks = Transposer<In, Out>;
  static constexpr int in_bytes = Blocks::in_bytes, out_bytes = Blocks::out_bytes, kGroup = Blocks::kGroup;

 public:
  ColumnKernel(const Plan& plan, bool planar)
      : blocks_(BlockLayout(plan, in_bytes, planar), BlockLayout(plan, out_bytes, planar)),
        map_(in_, out_, plan),
        portable_(make_portable(plan, In::type, Out::type)) {}

  void run(const Job& job, int64_t first, int64_t last) const override {
    const RowTiling tiling(in_, out_, job.w / in_.m);
    // The last part of a pixel row is loaded whole, also where fewer items are left. Block rows for which
    // that would read past the end of the images are left to the portable kernel.
    const int lanes = tiling.part_lanes(in_), part_blocks = lanes * in_.blocks;
    const int64_t last_part = (tiling.used - 1) / part_blocks * part_blocks;  // its first block
    const int64_t beyond =
        in_.segments > 1 ? 0 : lanes * kLane / in_bytes - (tiling.used - last_part) * in_.items;
    const int64_t end = beyond > 0 ? first_near_end(job, first, last, beyond) : last;
    if (end > first) run_chunks(job, tiling, first, end);
    if (end < last) portable_->run(job, end, last);
  }

 private:
  // The first of the block rows [first, last) that has fewer than `beyond` items between its end and the end
  // of the images; `last` if there is none.
  static int64_t first_near_end(const Job& job, int64_t first, int64_t last, int64_t beyond) {
    // One past the last item of n images of which the last has h pixel rows.
    auto end_of = [&](int64_t n, int64_t h) {
      const int64_t sizes[4] = {n, job.plan.channels, h, job.w};
      int64_t end = 1;
      for (int k = 0; k < 4; ++k) end += std::max<int64_t>(job.in_stride[k], 0) * (sizes[k] - 1);
      return end;
    };
    const int64_t m = job.plan.block_size, block_rows = job.h / m, end = end_of(job.n, job.h);
    for (int64_t r = first; r < last; ++r) {
      if (end_of(r / block_rows + 1, (r % block_rows + 1) * m) + beyond > end) return r;
    }
    return last;
  }

  // How many tiles a chunk has: those of whole block rows, if they fit, else those of a part of one. Of the
  // numbers of block rows between the limits it is the first that fills the last group well enough, else the
  // one that fills it best. Well enough is less with a staging buffer, where small chunks matter more.
  int64_t chunk_tiles(const RowTiling& tiling, int64_t group, bool direct) const {
    const int64_t group_bytes =
        int64_t{kGroup} * in_.m * in_.m * in_.channels * std::max(in_bytes, out_bytes);
    const int64_t min = (direct ? kMinChunkBytes : kMinStagedChunkBytes) / group_bytes * group;
    const int64_t max = std::max<int64_t>(kMaxChunkBytes / group_bytes, 1) * group;
    const double enough = direct ? 0.97 : 0.85;
    int64_t best = max;
    double best_share = 0;
    for (int64_t rows = min / tiling.row_tiles + 1; rows * tiling.row_tiles <= max && best_share < enough;
         ++rows) {
      const int64_t tiles = rows * tiling.row_tiles;
      const double share = static_cast<double>(tiles) / ((tiles + group - 1) / group * group);
      if (share > best_share) best = tiles, best_share = share;
    }
    return best;
  }

  void run_chunks(const Job& job, const RowTiling& tiling, int64_t first, int64_t last) const {
    static thread_local Workspace kept;
    Workspace& work = kept;
    const bool stream =
        Vector::has_stream && job.n * job.h * job.w * job.plan.channels * out_bytes > kMinStreamedBytes;
    const bool direct = !stream && StagingBuffer::padding(out_, tiling) == 0;
    const int64_t column_bytes = int64_t{kGroup} * in_bytes;
    const int64_t group_bytes = (in_.lines * in_.columns + map_.columns) * column_bytes;
    const int64_t groups = std::clamp<int64_t>(kScratchBytes / group_bytes, 1, kMaxGroups);
    const int64_t group = kGroup / tiling.blocks;
    const Chunking chunking{job,   in_,   out_,           tiling, work.in, work.out,
                            first, group, groups * group, stream, direct};
    const int64_t total = (last - first) * tiling.row_tiles;
    const int64_t max = chunk_tiles(tiling, chunking.group, direct);
    const bool whole_rows = max % tiling.row_tiles == 0;
    auto fill = [&](Chunk* chunk, int64_t done) {
      const int64_t rest = whole_rows ? total - done : tiling.row_tiles - done % tiling.row_tiles;
      const int64_t count = std::min({max, rest, total - done});
      chunk->fill(chunking, done, count);
      return count;
    };
    work.in.set(in_, tiling, job.in_stride, false);
    work.out.set(out_, tiling, job.out_stride, true);
    // Every pixel row of every run is padded; a chunk has at most as many runs as tiles.
    const int64_t staging_row = tiling.used * out_.row_bytes() + StagingBuffer::padding(out_, tiling);
    const int64_t staging_run = whole_lines(in_.m * staging_row) * (out_.planar ? out_.channels : 1);
    const int64_t staging_bytes = direct ? 0 : staging_run * max;
    const Scratch scratch{aligned_room(&work.memory, groups * group_bytes + 2 * staging_bytes), group_bytes,
                          groups};
    work.staging.memory = scratch.memory + groups * group_bytes;
    work.last_staging.memory = work.staging.memory + staging_bytes;
    work.staging.reset();
    work.last_staging.reset();
    work.last_staging.writes.clear();
    const auto passes =
        blocks_.template passes<Map>(kLane * tiling.part_lanes(in_), kLane * tiling.part_lanes(out_));
    int64_t taken = fill(&work.now, 0);
    for (int64_t done = 0; done < total;) {
      done += taken;
      work.next.prefetches.clear();
      if (done < total) taken = fill(&work.next, done);
      if (!direct) work.staging.set(work.now, chunking);
      transform_chunk(chunking, passes, scratch, &work);
      std::swap(work.now, work.next);
      std::swap(work.staging, work.last_staging);
    }
    if (!direct) work.last_staging.writes.finish();
    if (stream) Vector::fence();
  }

  void transform_chunk(const Chunking& chunking, const typename Blocks::template Passes<Map>& passes,
                       const Scratch& scratch, Workspace* work) const {
    const Chunk& now = work->now;
    const int64_t groups = now.tiles / chunking.group;
    const int64_t in_parts = chunking.group * work->in.tile_parts,
                  out_parts = chunking.group * work->out.tile_parts;
    char* const* to = chunking.direct ? now.out.data() : work->staging.parts.data();
    const int64_t* lines = chunking.direct ? work->out.lines.data() : work->staging.lines.data();
    const Traffic traffic{work->next.prefetches, work->last_staging.writes};
    const int64_t count = (groups + scratch.groups - 1) / scratch.groups;
    traffic.prefetches.set_steps(count * (in_.lines + out_.lines));
    traffic.writes.set_steps(count * (in_.lines + out_.lines));
    for (int64_t k = 0; k < count; ++k) {
      const int64_t g = k * scratch.groups;
      const Scratch some{scratch.memory, scratch.bytes, std::min(scratch.groups, groups - g)};
      (blocks_.*passes.to_columns)(now.in.data() + g * in_parts, work->in.lines.data(), some, traffic);
      map_.prepare(some);
      (blocks_.*passes.from_columns)(map_, some, to + g * out_parts, lines, traffic);
    }
    traffic.writes.finish();
  }

  const Blocks blocks_;
  const BlockLayout &in_ = blocks_.in, &out_ = blocks_.out;
  const Map map_;
  std::unique_ptr<const Kernel> portable_;
};

}  // namespace
}  // namespace blockenc
