// How the kernel `blocks` cuts a job into chunks that fit shared memory. Plain C++, computed on the host.
//
// The blocks of the output are numbered image by image, and in each row by row. A *chunk* is a number of them
// that follow each other; the blocks of the input that they are made of may lie anywhere. Shared memory holds
// both, each block by itself: its planes one after the other if the images are planar, its values in the
// order of their positions if their channels are interleaved.
//
// A *quad* is four positions of a block that follow each other. What the plan says of them is loaded at once.

#pragma once

#include <cstdint>

#include "divisor.h"
#include "vectors.h"

namespace blockenc {

constexpr int kQuad = 4;
constexpr int kMinVector = 2;                // bytes; where rows are aligned by less, `elements` is as good
constexpr int kChunkBytes = 16 * 1024;       // wanted, of input and output
constexpr int kMaxChunkBlocks = 256;         // a thread for each, to find out where it is
constexpr int kConflictingPlaneBytes = 128;  // planes of such bytes begin in the same bank of shared memory
constexpr int kPlaneGap = 32;                // bytes between such planes

// One side of a chunk, the input's or the output's. A *column* of it is the same vector of all pixel rows of
// a block: threads move columns.
struct ChunkSide {
  // In bytes:
  int vector;       // of one access to global memory
  int row;          // of a pixel row of a block
  int plane_pitch;  // from one plane of a block to the next in shared memory
  int block_pitch;  // from one block to the next
  int blocks;       // where the blocks begin in shared memory
  int rows;  // where that has, for each pixel row, where it begins in a block: in global memory, in shared
  // Numbers:
  Divisor vectors;  // of a pixel row of a block
  Divisor columns;  // of the chunk
  int abreast;      // pixel rows whose vectors all have a thread each
};

struct Chunking {
  Divisor channels;
  Divisor planes;  // of a block: its channels if the images are planar, else 1
  int pixel_rows;  // of a block
  ChunkSide in, out;
  Divisor quads;           // of a block
  int abreast;             // blocks whose quads all have a thread each
  int log_blocks;          // of a chunk
  Divisor blocks_per_row;  // of an image
  int64_t blocks_per_image;
  int64_t blocks;  // of the batch
  int64_t chunks;
  // Where shared memory has, for each block of this chunk and of the next, where it begins in global memory,
  // and its variant.
  int places, variants;
  int shared_bytes;
};

// How many parts, each of so many elements with a thread for each, a thread block works on at once: at least
// one, in several turns if it has more elements than there are threads.
inline int parts_abreast(const Divisor& elements) {
  return elements.number < kThreads ? static_cast<int>(kThreads / elements.number) : 1;
}

// Fills what a side has for a block; false if it cannot be moved by vectors.
inline bool make_side(const Plan& plan, const void* data, const int64_t* stride, Type type,
                      bool channels_last, ChunkSide* side) {
  const int64_t m = plan.block_size, item = item_size(type);
  const int64_t row = m * item * (channels_last ? plan.channels : 1), plane = m * row;
  const int alignment = row_alignment(data, stride, type, plan.channels, channels_last);
  const int64_t bits = alignment | row;
  const int64_t vector = alignment ? bits & -bits : 0;
  if (vector < kMinVector) return false;
  const int64_t planes = channels_last ? 1 : plan.channels;
  const int64_t plane_pitch = planes > 1 && plane % kConflictingPlaneBytes == 0 ? plane + kPlaneGap : plane;
  // An odd number of vectors: the same vector of consecutive blocks is in different banks.
  const int64_t block_pitch = (planes * plane_pitch / vector | 1) * vector;
  if (block_pitch > kMaxSharedBytes) return false;  // also keeps all of it within 32 bits
  side->vector = static_cast<int>(vector);
  side->row = static_cast<int>(row);
  side->plane_pitch = static_cast<int>(plane_pitch);
  side->block_pitch = static_cast<int>(block_pitch);
  side->vectors = Divisor(row / vector);
  return true;
}

// Fills `c`; false if the job has to take the kernel `elements`.
inline bool make_chunking(const Job& job, Chunking* c) {
  const Plan& plan = job.plan;
  if (plan.length % kQuad) return false;
  const int m = plan.block_size;
  auto goes = [&](bool channels_last) {
    return make_side(plan, job.in, job.in_stride, job.in_type, channels_last, &c->in) &&
           make_side(plan, job.out, job.out_stride, job.out_type, channels_last, &c->out);
  };
  const bool planar = goes(false);
  if (!planar && !goes(true)) return false;
  c->channels = Divisor(plan.channels);
  c->planes = Divisor(planar ? plan.channels : 1);
  c->pixel_rows = static_cast<int>(c->planes.number) * m;
  c->quads = Divisor(plan.length / kQuad);
  c->abreast = parts_abreast(c->quads);
  c->blocks_per_row = Divisor(job.w / m);
  c->blocks_per_image = job.h / m * (job.w / m);
  c->blocks = job.n * c->blocks_per_image;

  const int64_t block_bytes = int64_t{c->in.block_pitch} + c->out.block_pitch;
  c->log_blocks = 0;
  while (2 << c->log_blocks <= kMaxChunkBlocks && block_bytes << (c->log_blocks + 1) <= kChunkBytes)
    ++c->log_blocks;
  c->chunks = (c->blocks + (1 << c->log_blocks) - 1) >> c->log_blocks;

  SharedMemory memory;
  auto section = [&](int64_t bytes) { return static_cast<int>(memory.section(bytes)); };
  for (ChunkSide* side : {&c->in, &c->out}) {
    side->columns = Divisor(int64_t{side->vectors.number} << c->log_blocks);
    side->abreast = parts_abreast(side->columns);
    side->blocks = section(int64_t{side->block_pitch} << c->log_blocks);
    side->rows = section(int64_t{16} * c->pixel_rows);
  }
  c->places = section(int64_t{2} * 16 << c->log_blocks);
  c->variants = section(int64_t{2} * 4 << c->log_blocks);
  if (memory.end > kMaxSharedBytes) return false;
  c->shared_bytes = static_cast<int>(memory.end);
  return true;
}

}  // namespace blockenc
