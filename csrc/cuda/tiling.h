// How the kernel `tiles` cuts a job into tiles that fit shared memory. Plain C++, computed on the host.
//
// A *block row*, the blocks of M image rows, is made of pixel rows (vectors.h): C * M of them if the images
// are planar, M if their channels are interleaved. In a pixel row a block begins every `block_stride`
// elements. A *strip* is the least number of blocks side by side whose part of a pixel row is a whole number
// of 16-byte vectors, in the input and in the output. All strips are alike: from which element of a strip an
// output element is made, and how, is computed once for all (an *entry*). A *tile* is many strips, which
// follow each other in a block row, and go on in the next one.
//
// Shared memory holds a tile in *bundles*. A bundle is the strips whose elements fit in one 32-bit word: 4
// for bytes, 2 for 16 bits, 1 for 32. Element e of all bundles comes before element e + 1 of any. A thread
// works on one element of a bundle, so one access loads that element of all its strips. The lanes of a warp
// work on the same element of consecutive bundles, which are in consecutive banks. With few bundles lanes
// work on consecutive vectors instead, which begin in the same bank unless they are set apart
// (Tuning::padded).

#pragma once

#include <algorithm>
#include <cstdint>

#include "tuning.h"
#include "vectors.h"

namespace blockenc {

constexpr int kMaxStrips = 256;            // of a tile
constexpr int kWideTileBytes = 16 * 1024;  // wanted for types wider than bytes
constexpr int kLookupBytes = 32 * 1024;    // wanted for the lookup tables, copies included
constexpr int kMaxTileBytes = 32 * 1024;   // an entry has 16 bits for a place in the tile
constexpr int kMaxAheadBytes = 99 * 1024;  // of shared memory, if tiles are under way there: there is so
                                           // much from sm_80 on
constexpr int kBanks = 32;
constexpr int kEntryPadding = 4;  // entries between those of two vectors, if vectors are set apart
constexpr int kLookups = 0;       // where they begin in shared memory: a constant saves an addition a value

struct Tiling {
  int channels_last;
  int block_stride;  // elements from one block to the next
  int pixel_rows;    // of a block row
  int strip;         // elements of a pixel row
  int in_vectors;    // vectors of a pixel row of a strip, in the input
  int out_vectors;   // the same in the output
  int log_strips;    // strips of a tile
  int log_bundles;   // bundles of a tile
  int pitch;         // words from one element of a tile to the next
  // There is a lookup table for every substitution table (and none), channel of a float output, and parity of
  // an integer's flips. As many of them as fit in a word are a group: a word for every integer. There are
  // copies of each word, side by side, so that lanes read from different banks.
  int lookup_channels;
  int parities;
  int groups;
  int group_bytes;         // copies included
  int value_bytes;         // of all copies of a word
  int64_t strips_per_row;  // of a block row
  int64_t block_rows;      // of an image
  int64_t strips;          // of the batch
  int64_t tiles;
  // Where things lie in shared memory, in bytes.
  int tile, entries, flips, strip_bases, row_bases, shared_bytes;  // (lookup tables: kLookups)
  int padding;    // words between two vectors of a tile, if vectors are set apart
  int ahead;      // as in Tuning; 0 where that does not fit
  int under_way;  // where the tiles under way lie in shared memory, in bytes
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

inline bool is_bytes(const Job& job) { return job.in_type == Type::u8 && job.out_type == Type::u8; }

// Tiles of which shared memory has where their strips begin: that in work, those under way, and the next.
BLOCKENC_INLINE constexpr int strip_slots(int ahead) { return (ahead ? ahead : 1) + 2; }

// Fills `t`; false if the job has to take another kernel. The tuning is that of bytes to bytes.
inline bool make_tiling(const Job& job, const Tuning& tuning, Tiling* t) {
  const Plan& plan = job.plan;
  if (!plan.is_uniform() || plan.flags & kNibbles) return false;
  const int m = plan.block_size, c = plan.channels;
  auto goes = [&](bool channels_last) {
    return row_alignment(job.in, job.in_stride, job.in_type, c, channels_last) == kVector &&
           row_alignment(job.out, job.out_stride, job.out_type, c, channels_last) == kVector;
  };
  t->channels_last = !goes(false);
  if (t->channels_last && !goes(true)) return false;
  const int64_t block_stride = t->channels_last ? int64_t{m} * c : m;
  const int64_t pixel_rows = t->channels_last ? m : int64_t{m} * c;
  const int in_item = item_size(job.in_type), out_item = item_size(job.out_type);
  const int smaller = in_item < out_item ? in_item : out_item;
  const int64_t strip = least_common_multiple(block_stride, kVector / smaller);
  const int64_t row = job.w * (t->channels_last ? c : 1);
  if (row % strip || pixel_rows * strip > kMaxTileBytes) return false;
  t->block_stride = static_cast<int>(block_stride);
  t->pixel_rows = static_cast<int>(pixel_rows);
  t->strip = static_cast<int>(strip);
  t->in_vectors = static_cast<int>(strip * in_item / kVector);
  t->out_vectors = static_cast<int>(strip * out_item / kVector);
  t->strips_per_row = row / strip;
  t->block_rows = job.h / m;
  t->strips = job.n * t->block_rows * t->strips_per_row;

  const int per_bundle = 4 / in_item;
  const int64_t strip_bytes = pixel_rows * strip * in_item;
  int log_per_bundle = 0;
  while (1 << log_per_bundle < per_bundle) ++log_per_bundle;
  t->log_strips = log_per_bundle;
  const int wanted = is_bytes(job) ? tuning.tile_bytes : kWideTileBytes;
  auto tiles = [&](int log_strips) { return (t->strips + (1 << log_strips) - 1) >> log_strips; };
  while (2 << t->log_strips <= kMaxStrips && strip_bytes << (t->log_strips + 1) <= wanted) ++t->log_strips;
  if (is_bytes(job)) {
    while (t->log_strips > log_per_bundle && tiles(t->log_strips) < tuning.least_tiles) --t->log_strips;
  }
  t->log_bundles = t->log_strips - log_per_bundle;
  // With these, lanes that work on several vectors of a strip, or on several pixel rows, meet in the fewest
  // banks.
  const int bundles = 1 << t->log_bundles;
  t->pitch = bundles < kBanks || t->in_vectors > 1 ? bundles | 1 : bundles + (t->out_vectors > 1 ? 2 : 0);
  t->ahead = is_bytes(job) ? tuning.ahead : 0;
  const bool padded = is_bytes(job) && tuning.padded;
  // That many words more bring the bundles of the next vector into the banks beside those of this one.
  t->padding = padded && bundles < kBanks ? bundles : 0;
  if (t->padding) t->pitch = bundles;
  auto tile_bytes = [&] { return 4 * pixel_rows * (strip * t->pitch + t->in_vectors * t->padding); };
  if (tile_bytes() > kMaxTileBytes) t->pitch = bundles, t->padding = 0;
  t->tiles = tiles(t->log_strips);

  const bool substitutes = is_integer(job.in_type) || plan.flags & kQuantises;
  t->lookup_channels = is_integer(job.out_type) ? 1 : c;
  // Floats of the decimal profile have no lookup tables that flip, which would be of 1000 values each: they
  // are flipped before the lookup (tile_output). Schemes never flip them.
  const bool flips_integers = plan.flags & kNearest && !(plan.flags & kDecimalIn);
  t->parities = is_integer(job.in_type) || flips_integers ? 2 : 1;
  const int64_t lookups =
      substitutes ? (int64_t{plan.table_count} + 1) * t->lookup_channels * t->parities : 0;
  const int per_word = 4 / out_item;
  const int64_t groups = (lookups + per_word - 1) / per_word, word_bytes = 4 * groups * plan.in_values;
  if (word_bytes > kMaxSharedBytes) return false;  // also keeps the numbers below within 32 bits
  t->groups = static_cast<int>(groups);

  SharedMemory memory;  // from the end of the lookup tables
  auto section = [&](int64_t bytes) { return static_cast<int>(memory.section(bytes)); };
  t->tile = section(tile_bytes());
  if (memory.end > kMaxTileBytes) return false;
  t->entries = section(4 * pixel_rows * (strip + (padded ? t->out_vectors * kEntryPadding : 0)));
  t->flips = section(is_integer(job.in_type) ? 0 : pixel_rows * strip);
  t->strip_bases = section(int64_t{strip_slots(t->ahead)} * 16 << t->log_strips);
  t->row_bases = section(16 * pixel_rows);
  t->under_way = section(t->ahead * strip_bytes << t->log_strips);
  // The lookup tables come before all that, in as many copies as still go in.
  const int most = t->ahead ? kMaxAheadBytes : kMaxSharedBytes;
  int copies = 1;
  while (2 * copies <= kBanks && word_bytes * 2 * copies <= kLookupBytes &&
         memory.end + word_bytes * 2 * copies <= most)
    copies *= 2;
  t->value_bytes = 4 * copies;
  t->group_bytes = t->value_bytes * plan.in_values;
  const int64_t lookups_end = kLookups + word_bytes * copies;
  if (memory.end + lookups_end > most) {
    if (!t->ahead) return false;
    Tuning without = tuning;
    without.ahead = 0;
    return make_tiling(job, without, t);
  }
  for (int* place : {&t->tile, &t->entries, &t->flips, &t->strip_bases, &t->row_bases, &t->under_way})
    *place += static_cast<int>(lookups_end);
  t->shared_bytes = static_cast<int>(memory.end + lookups_end);
  return true;
}

}  // namespace blockenc
