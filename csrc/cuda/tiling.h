// How a job is cut into tiles that fit shared memory. Plain C++, computed on the host.
//
// A row of blocks is a few *segments* of contiguous memory (channels first: one a channel and image row,
// C*M of them; channels last: one an image row, M), along which the blocks follow each other every `step`
// elements. A *period* is the shortest run of whole blocks that is also whole 16-byte vectors, in and out.
// Periods are all alike, so where an element of a period is read, and what happens to it, is computed once
// for every period of the batch (an *entry*). A tile is `periods` of them, next to each other in memory
// where the image is wide enough, else in the following rows of blocks.
//
// Shared memory holds a tile by *columns*: as many periods as have their elements in one word (4 of bytes, 2
// of 16 bits, 1 of 32). Element e of all columns, then the next element. A thread works on one place of a
// column, so that one access gathers an element of all its periods; the lanes of a warp work on the same
// place of consecutive columns, so they touch consecutive banks.

#pragma once

#include <algorithm>
#include <cstdint>

#include "../plan.h"

namespace blockenc {

constexpr int kVector = 16;                // bytes of one access to global memory
constexpr int kThreads = 256;              // of a block
constexpr int kInFlight = 4;               // vectors a thread holds in registers while they are loaded
constexpr int kMostPeriods = 256;          // of a tile
constexpr int kTileBytes = 24 * 1024;      // wanted for bytes: several blocks are to share a multiprocessor
constexpr int kWideTileBytes = 16 * 1024;  // wanted for wider types
constexpr int kRowBytes = 32 * 1024;       // wanted for the value rows, copies included
constexpr int kMostShared = 64 * 1024;
constexpr int kMostTile = 32 * 1024;  // an entry has 16 bits for a place in the tile
constexpr int kBanks = 32;
constexpr int kValueRows = 0;  // where they begin in shared memory: a constant saves an addition a value

struct Tiling {
  int channels_last;
  int step;         // elements from one block to the next
  int segments;     // of a row of blocks
  int period;       // elements
  int in_chunks;    // vectors of a period, in
  int out_chunks;   // ... and out
  int log_periods;  // periods of a tile
  int log_columns;  // columns of a tile
  int pitch;        // words from one element of a tile to the next
  // Value rows are for every table, channel of float output, and parity of flips of integers. As many
  // as fit a word form a group, whose words are repeated side by side, so that lanes differ in banks.
  int row_channels;
  int parities;
  int groups;
  int group_bytes;          // copies included
  int value_bytes;          // of all copies of a word
  int64_t periods_per_row;  // of blocks
  int64_t block_rows;       // of an image
  int64_t periods;          // of the batch
  int64_t tiles;
  // Where things lie in shared memory, in bytes.
  int tile, entries, flips, bases, segment_bases, shared_bytes;  // (value rows: kValueRows)
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
  if (!plan.is_uniform()) return false;
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

  const int per_column = 4 / in_item;
  const int64_t period_bytes = segments * period * in_item;
  int log_column = 0;
  while (1 << log_column < per_column) ++log_column;
  t->log_periods = log_column;
  const int wanted = in_item == 1 && out_item == 1 ? kTileBytes : kWideTileBytes;
  while (2 << t->log_periods <= kMostPeriods && period_bytes << (t->log_periods + 1) <= wanted)
    ++t->log_periods;
  t->log_columns = t->log_periods - log_column;
  // Lanes that work on several chunks of a period, or on several segments, keep apart best with these.
  const int columns = 1 << t->log_columns;
  t->pitch = columns < kBanks || t->in_chunks > 1 ? columns | 1 : columns + (t->out_chunks > 1 ? 2 : 0);
  if (4 * segments * period * t->pitch > kMostTile) t->pitch = columns;
  t->tiles = (t->periods + (1 << t->log_periods) - 1) >> t->log_periods;

  const bool substitutes = is_integer(job.in_type) || plan.flags & kQuantises;
  t->row_channels = is_integer(job.out_type) ? 1 : c;
  // No step flips before an encrypted image of the decimal profile is deciphered, so its floats need no row
  // of 1000 values more for each.
  const bool flips_integers = plan.flags & kNearest && !(plan.flags & kDecimalIn);
  t->parities = is_integer(job.in_type) || flips_integers ? 2 : 1;
  const int rows = substitutes ? (plan.table_count + 1) * t->row_channels * t->parities : 0;
  const int per_word = 4 / out_item;
  t->groups = (rows + per_word - 1) / per_word;
  const int64_t word_bytes = int64_t{4} * t->groups * plan.in_values;

  int64_t offset = 0;  // from the end of the value rows
  auto section = [&](int64_t bytes) {
    const int64_t here = offset;
    offset += (bytes + kVector - 1) / kVector * kVector;
    return static_cast<int>(here);
  };
  t->tile = section(4 * segments * period * t->pitch);
  if (offset > kMostTile) return false;
  t->entries = section(4 * segments * period);
  t->flips = section(is_integer(job.in_type) ? 0 : segments * period);
  t->bases = section(int64_t{3} * 16 << t->log_periods);
  t->segment_bases = section(16 * segments);
  // The value rows come before all that, in as many copies as still go in.
  int copies = 1;
  while (2 * copies <= kBanks && word_bytes * 2 * copies <= kRowBytes &&
         offset + word_bytes * 2 * copies <= kMostShared)
    copies *= 2;
  t->value_bytes = 4 * copies;
  t->group_bytes = t->value_bytes * plan.in_values;
  const int64_t rows_end = kValueRows + word_bytes * copies;
  offset += rows_end;
  if (offset > kMostShared) return false;
  for (int* place : {&t->tile, &t->entries, &t->flips, &t->bases, &t->segment_bases})
    *place += static_cast<int>(rows_end);
  t->shared_bytes = static_cast<int>(offset);
  return true;
}

}  // namespace blockenc
