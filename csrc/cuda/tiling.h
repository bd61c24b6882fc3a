// How a job is cut into tiles that fit shared memory. Plain C++, computed on the host.
//
// A row of blocks is a few *segments* of contiguous memory (channels first: one a channel and image row,
// C*M of them; channels last: one an image row, M), along which the blocks follow each other every `step`
// elements. A *period* is the shortest run of whole blocks that is also whole 16-byte vectors, in and out.
// Periods are all alike, so where an element of a period is read, and what happens to it, is computed once
// for every period of the batch (an *entry*). A tile is `periods` of them, next to each other in memory
// where the image is wide enough, else in the following rows of blocks.
//
// Shared memory holds a tile transposed: word w of segment s of all periods, then the next word. The lanes
// of a warp work on the same word of consecutive periods, so they touch consecutive banks.

#pragma once

#include <cstdint>

#include "../plan.h"

namespace blockenc {

constexpr int kVector = 16;            // bytes of one access to global memory
constexpr int kThreads = 256;          // of a block
constexpr int kMostPeriods = 256;      // of a tile; one thread each computes where they lie
constexpr int kTileBytes = 12 * 1024;  // wanted: small, so that several blocks share a multiprocessor
constexpr int kRowBytes = 16 * 1024;   // wanted for the value rows, copies included
constexpr int kMostShared = 48 * 1024;
constexpr int kMostTile = 32 * 1024;  // an entry has 16 bits for a place in the tile
constexpr int kBanks = 32;

struct Tiling {
  int channels_last;
  int step;         // elements from one block to the next
  int segments;     // of a row of blocks
  int period;       // elements
  int in_chunks;    // vectors of a period, in
  int out_chunks;   // ... and out
  int log_periods;  // periods of a tile
  int pitch;        // words from one word of a tile to the next: odd, so that columns differ in banks
  int row_words;    // of one value row, one copy
  int rows;
  int log_copies;           // of every value row, interleaved word by word, so that lanes differ in banks
  int64_t periods_per_row;  // of blocks
  int64_t block_rows;       // of an image
  int64_t periods;          // of the batch
  int64_t tiles;
  // Where things lie in shared memory, in bytes.
  int tile, entries, flips, value_rows, bases, segment_bases, shared_bytes;
};

inline int64_t least_common_multiple(int64_t a, int64_t b) {
  int64_t x = a, y = b;
  while (y) {
    const int64_t rest = x % y;
    x = y;
    y = rest;
  }
  return a / x * b;
}

// Whether one side of the job consists of 16-byte vectors along its segments.
inline bool is_vectors(const void* data, const int64_t* stride, Type type, int channels, bool channels_last) {
  const int item = item_size(type);
  if (reinterpret_cast<uintptr_t>(data) % kVector || stride[0] * item % kVector || stride[2] * item % kVector)
    return false;
  if (channels_last) return stride[1] == 1 && stride[3] == channels;
  return stride[3] == 1 && stride[1] * item % kVector == 0;
}

// Fills `t`; false if the job has to take the element-by-element kernel.
inline bool make_tiling(const Job& job, Tiling* t) {
  const Plan& plan = job.plan;
  const int m = plan.block_size, c = plan.channels;
  auto goes = [&](bool channels_last) {
    return is_vectors(job.in, job.in_stride, job.in_type, c, channels_last) &&
           is_vectors(job.out, job.out_stride, job.out_type, c, channels_last);
  };
  if (goes(false)) {
    t->channels_last = 0;
  } else if (goes(true)) {
    t->channels_last = 1;
  } else {
    return false;
  }
  const int64_t step = t->channels_last ? int64_t{m} * c : m;
  const int64_t segments = t->channels_last ? m : int64_t{m} * c;
  const int in_item = item_size(job.in_type), out_item = item_size(job.out_type);
  const int smaller = in_item < out_item ? in_item : out_item;
  const int64_t period = least_common_multiple(step, kVector / smaller);
  const int64_t row = job.w * (t->channels_last ? c : 1);
  if (row % period || segments * period > kMostTile) return false;
  t->step = static_cast<int>(step);
  t->segments = static_cast<int>(segments);
  t->period = static_cast<int>(period);
  t->in_chunks = static_cast<int>(period * in_item / kVector);
  t->out_chunks = static_cast<int>(period * out_item / kVector);
  t->periods_per_row = row / period;
  t->block_rows = job.h / m;
  t->periods = job.n * t->block_rows * t->periods_per_row;

  const int words = static_cast<int>(segments * period) * in_item / 4;
  t->log_periods = 0;
  while (2 << t->log_periods <= kMostPeriods && words * (2 << t->log_periods) * 4 <= kTileBytes)
    ++t->log_periods;
  t->pitch = (1 << t->log_periods) | 1;
  t->tiles = (t->periods + (1 << t->log_periods) - 1) >> t->log_periods;

  const bool substitutes = is_integer(job.in_type) || plan.flags & kQuantises;
  t->row_words = plan.in_values * out_item / 4;
  t->rows = substitutes ? (plan.table_count + 1) * (is_integer(job.out_type) ? 1 : c) : 0;
  const int64_t row_bytes = int64_t{4} * t->rows * t->row_words;

  int64_t offset = 0;
  auto section = [&](int64_t bytes) {
    const int64_t here = offset;
    offset += (bytes + kVector - 1) / kVector * kVector;
    return static_cast<int>(here);
  };
  t->tile = section(int64_t{4} * words * t->pitch);
  if (offset > kMostTile) return false;
  t->entries = section(4 * segments * period);
  t->flips = section(is_integer(job.in_type) ? 0 : segments * period);
  t->bases = section(int64_t{2} * 16 << t->log_periods);
  t->segment_bases = section(16 * segments);
  // The value rows take what is left, in as many copies as go into it.
  t->log_copies = 0;
  while (2 << t->log_copies <= kBanks && row_bytes * (2 << t->log_copies) <= kRowBytes &&
         offset + row_bytes * (2 << t->log_copies) <= kMostShared)
    ++t->log_copies;
  t->value_rows = section(row_bytes << t->log_copies);
  t->shared_bytes = static_cast<int>(offset);
  return offset <= kMostShared;
}

}  // namespace blockenc
