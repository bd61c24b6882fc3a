// The kernel that moves bytes block by block, for plans whose blocks move or differ: a block is read where it
// lies, changed in registers by a *mover*, and written.
//
// A chunk of the output is put together in a staging buffer that fits in the first-level cache, and then
// written as a whole: in the order of memory and, if it is large, past the caches, while the next chunk is in
// work.
//
// A mover offers
//   static make(plan, planes)   null if it is not for this plan
//   Offsets(planes, pitch)      what it wants to know of the places of the bytes of a block
//   move(variant, from, in, to, out)    makes a block of a variant, from its place and offsets in the input
//
// Included by kernels-inl.h.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "row_tiling-inl.h"

namespace blockenc {
namespace {

constexpr int64_t kMaxBlockChunkBytes = 16 * 1024;

// Whether every block stays where it is.
inline bool is_still(const Plan& plan) {
  const int64_t blocks = plan.blocks();
  for (int64_t k = 0; k < plan.keys * blocks; ++k) {
    if (plan.moves[k] != k % blocks) return false;
  }
  return true;
}

// Whether any position has a substitution table, so that values are not only moved and flipped.
inline bool substitutes(const Plan& plan) {
  return std::any_of(plan.table_of, plan.table_of + plan.positions(), [](uint16_t t) { return t != 0; });
}

// Bytes from one plane to the next, and from one pixel row.
struct Pitch {
  int64_t plane, row;
};

// Where the values of an image are, for what takes them as bytes in planes: a plane is a channel; interleaved
// there is one, whose rows hold pixels whole.
struct Planes {
  int count, m, columns;  // of a block: pixel rows, and bytes of one
  bool planar;
  int channels;
  BlockLayout layout;

  Planes(const Plan& plan, bool planar)
      : count(planar ? plan.channels : 1),
        m(plan.block_size),
        columns(planar ? m : m * plan.channels),
        planar(planar),
        channels(plan.channels),
        layout(plan, 1, planar, true) {}

  int position(int plane, int row, int column) const {
    return planar ? (row * m + column) * channels + plane : row * columns + column;
  }
  int plane(int p) const { return planar ? p % channels : 0; }
  int row(int p) const { return p / channels / m; }
  int column(int p) const { return planar ? p / channels % m : p % columns; }
};

// The blocks of an image: which block of the input, and which variant, a block of the output is made of.
struct BlockMap {
  const int32_t *moves, *variant;  // of the image's key

  BlockMap(const Plan& plan, int64_t image) {
    const int64_t key = plan.images ? plan.key_of_image[image] : 0;
    moves = plan.moves + key * plan.blocks();
    variant = plan.variant + key * plan.blocks();
  }
};

template <class Mover>
class BlockKernel : public Kernel {
  using Offsets = typename Mover::Offsets;

 public:
  // Null if the mover is not for this plan.
  static std::unique_ptr<const Kernel> make(const Plan& plan, bool planar) {
    const Planes planes(plan, planar);
    auto mover = Mover::make(plan, planes);
    return mover ? std::make_unique<BlockKernel>(plan, planes, std::move(mover)) : nullptr;
  }

  BlockKernel(const Plan& plan, const Planes& planes, std::unique_ptr<const Mover> mover)
      : plan_(plan),
        planes_(planes),
        mover_(std::move(mover)),
        still_(is_still(plan)),
        chunk_blocks_(std::max<int64_t>(kMaxBlockChunkBytes / plan.length / 8 * 8, 8)),
        chunk_rows_(std::clamp<int64_t>(chunk_blocks_ / plan.grid_columns, 1, plan.grid_rows)),
        image_chunks_((plan.grid_rows + chunk_rows_ - 1) / chunk_rows_) {}

  // A unit is a chunk of an image: number u is chunk u % image_chunks_ of image u / image_chunks_.
  int64_t units(const Job& job) const override { return job.n * image_chunks_; }

  void run(const Job& job, int64_t first, int64_t last) const override {
    Workspace& work = workspace();
    const Pitch in_pitch{job.in_stride[1], job.in_stride[2]}, out_pitch{job.out_stride[1], job.out_stride[2]};
    const Chunks chunks{job, in_pitch, out_pitch, Offsets(planes_, in_pitch),
                        Vector::has_stream && job.n * job.h * job.w * plan_.channels > kMinStreamedBytes};
    work.in_blocks = block_offsets(plan_, job.in_stride);
    const int64_t staging_bytes = (chunk_blocks_ * plan_.length + kCacheLine - 1) / kCacheLine * kCacheLine;
    work.staging = aligned_room(&work.memory, 2 * staging_bytes);
    work.last_staging = work.staging + staging_bytes;
    work.writes.clear();
    work.writes.stream = true;
    for (int64_t u = first; u < last; ++u) {
      // Blocks that stay are read soon after those above them; those that move may be read at any time.
      const int64_t ahead = still_ ? u + 1 : u + image_chunks_;
      const Chunk next = chunks.stream && ahead < last ? chunk_of(ahead) : Chunk{};
      Chunk chunk = chunk_of(u);
      for (; chunk.end < plan_.grid_columns; chunk.begin = chunk.end) {
        chunk.end = std::min<int64_t>(chunk.begin + chunk_blocks_, plan_.grid_columns);
        run_chunk(chunks, chunk, next, &work);
      }
    }
    work.writes.finish();
    if (chunks.stream) Vector::fence();
  }

 private:
  // The memory that a thread works in, kept for its next call.
  struct Workspace {
    std::vector<int64_t> in_blocks;  // where each block of an image begins
    PrefetchQueue prefetches;        // of the input
    WriteQueue writes;               // of the chunk before, from its staging buffer
    std::vector<char> memory;        // of the two staging buffers
    char *staging, *last_staging;
  };
  // Not inlined, or the address would be looked up again and again.
  __attribute__((noinline)) static Workspace& workspace() {
    static thread_local Workspace kept;
    return kept;
  }

  // What is the same for all chunks of a job.
  struct Chunks {
    const Job& job;
    const Pitch in, out;
    const Offsets in_offsets;
    const bool stream;  // whether the output is written past the caches
  };

  // Some block rows of an image, or a part of one.
  struct Chunk {
    int64_t image, row, rows;  // from block row number `row` on
    int64_t begin, end;        // blocks of a block row
  };

  Chunk chunk_of(int64_t u) const {
    const int64_t row = u % image_chunks_ * chunk_rows_;
    return {u / image_chunks_, row, std::min(chunk_rows_, plan_.grid_rows - row), 0, 0};
  }

  // next: what is prefetched meanwhile, the same blocks of its rows; no rows for nothing.
  void run_chunk(const Chunks& chunks, const Chunk& chunk, const Chunk& next, Workspace* work) const {
    const Job& job = chunks.job;
    const int64_t m = planes_.m, block_bytes = planes_.columns,
                  bytes = (chunk.end - chunk.begin) * block_bytes;
    const char* const in = static_cast<const char*>(job.in) + chunk.image * job.in_stride[0];
    char* const out = static_cast<char*>(job.out) + chunk.image * job.out_stride[0] +
                      chunk.row * m * chunks.out.row + chunk.begin * block_bytes;
    const Pitch pitch = chunks.stream ? Pitch{chunk.rows * m * bytes, bytes} : chunks.out;
    char* const first = chunks.stream ? work->staging : out;
    const int64_t blocks = chunk.rows * (chunk.end - chunk.begin);
    const int64_t step_blocks = std::max<int64_t>(kMinTransferBytes / plan_.length, 1);
    work->prefetches.clear();
    const char* const ahead = static_cast<const char*>(job.in) + next.image * job.in_stride[0] +
                              next.row * m * chunks.in.row + chunk.begin * block_bytes;
    for (int c = 0; c < planes_.count; ++c) {
      work->prefetches.add_rows(ahead + c * chunks.in.plane, chunks.in.row, next.rows * m, bytes);
    }
    work->prefetches.set_steps(blocks / step_blocks + 1);
    work->writes.set_steps(blocks / step_blocks + 1);
    const Traffic traffic{work->prefetches, work->writes};
    const Offsets offsets(planes_, pitch);
    const BlockMap map(plan_, chunk.image);
    const int64_t* const in_blocks = work->in_blocks.data();
    int64_t until_step = step_blocks;
    for (int64_t row = 0; row < chunk.rows; ++row) {
      const int64_t g = (chunk.row + row) * plan_.grid_columns;
      char* to = first + row * m * pitch.row;
      for (int64_t b = chunk.begin; b < chunk.end; ++b, to += block_bytes) {
        mover_->move(map.variant[g + b], in + in_blocks[map.moves[g + b]], chunks.in_offsets, to, offsets);
        if (--until_step == 0) {
          traffic.step();
          until_step = step_blocks;
        }
      }
    }
    work->writes.finish();
    work->writes.clear();
    if (!chunks.stream) return;
    for (int c = 0; c < planes_.count; ++c) {
      work->writes.add_rows(out + c * chunks.out.plane, chunks.out.row, work->staging + c * pitch.plane,
                            pitch.row, chunk.rows * m, bytes);
    }
    std::swap(work->staging, work->last_staging);
  }

  const Plan& plan_;
  const Planes planes_;
  const std::unique_ptr<const Mover> mover_;
  const bool still_;  // whether no block moves
  const int64_t chunk_blocks_, chunk_rows_;
  const int64_t image_chunks_;  // of an image
};

}  // namespace
}  // namespace blockenc
