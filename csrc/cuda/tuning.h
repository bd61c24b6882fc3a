// Ways to run the kernel `tiles` from bytes to bytes that give the same values, for a benchmark to compare.
// Plain C++.

#pragma once

namespace blockenc {

struct Tuning {
  int threads = 256;           // of a thread block (instances.h has which)
  int tile_bytes = 24 * 1024;  // wanted: several thread blocks are to share a multiprocessor
  int least_tiles = 1;         // into which a batch is cut where it can be, so that small ones reach all
                               // multiprocessors
  bool padded = false;         // whether vectors are set apart in shared memory (tiling.h)
  int ahead = 0;               // tiles under way at once by asynchronous copies to shared memory, if they
                               // fit there; 0: one, in registers
};

}  // namespace blockenc
