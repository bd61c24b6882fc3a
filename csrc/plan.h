// A plan and a job: what every kernel, on every device, is given.
//
// A plan comes from Python packed into one array of bytes: a header, then sections, each padded to a multiple
// of kSection bytes (blockenc/plan/packing.py writes the same layout). This file is plain C++17, compiled by
// g++ and nvcc alike; nothing here allocates memory.

#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define BLOCKENC_HOST_DEVICE __host__ __device__
#define BLOCKENC_INLINE __host__ __device__ __forceinline__
#else
#define BLOCKENC_HOST_DEVICE
#define BLOCKENC_INLINE inline __attribute__((always_inline))
#endif

namespace blockenc {

enum class Type : int32_t { u8, u16, f32, f16, bf16 };

BLOCKENC_HOST_DEVICE constexpr int item_size(Type type) {
  return type == Type::u8 ? 1 : type == Type::f32 ? 4 : 2;
}
BLOCKENC_HOST_DEVICE constexpr bool is_integer(Type type) { return type == Type::u8 || type == Type::u16; }

// The bits of Plan::flags; blockenc/plan/ has the same list.
enum : int32_t {
  kQuantises = 1,    // float input becomes integers
  kNearest = 2,      // floats k / 255 are the bytes k; without it they are treated as published
  kDecimalIn = 4,    // integers in are below 1000, not 256
  kDecimalOut = 8,   // integers out are below 1000, not 256
  kNormalises = 16,  // float output is (v - mean) / std
  kNibbles = 32,     // the halves of bytes are moved and flipped on their own
  kAllFlags = 63,
};

constexpr int kByteValues = 256;
constexpr int kDecimalValues = 1000;
constexpr int64_t kSection = 64;
constexpr int kMaxTables = (1 << 16) - 1;     // table_of has 16 bits
constexpr int64_t kMaxBlockLength = 1 << 20;  // blockenc/limits.py, MAX_BLOCK_LENGTH
constexpr int64_t kMaxBlocks = 1 << 24;       // of an image, and the images of a batch
constexpr int64_t kMaxEntries = 1 << 28;      // of an array

// How a packed plan begins. The digest only finds what was kept for a plan: nobody relies on it.
struct Header {
  char magic[8];
  uint32_t layout, header_bytes;
  int64_t bytes;  // of all
  int32_t block_size, channels, flags, tables, variants, keys;
  int32_t rows, columns;  // of the grid of blocks of an image; 0: images of any size
  int32_t images;         // of the batch; 0: any number, all with key 0
  int32_t zero;
  uint8_t digest[32];
  uint8_t padding[32];
};
constexpr int64_t kHeaderBytes = 128;
static_assert(sizeof(Header) == kHeaderBytes);
constexpr char kMagic[] = "BLKENCPL";
constexpr uint32_t kLayout = 2;

// Block g of an image, of key k, is made of block moves[k][g] of the input by variant v = variant[k][g] of
// the block transform; k = key_of_image[image]. Without a grid no block moves, and v = k; a plan of one key
// without a grid is *uniform*: it treats all blocks alike. A block vector has L = M * M * C values: position
// (i * M + j) * C + c is row i, column j, channel c of the block. The value at position p of an output block
// is made in three stages from the input value in[source[v][p]], where p has the channel c:
//
// 1. Flips, and floats to integers where kQuantises is set.
//      integers              k = min(value, in_values - 1), then 255 - k if flips[v][p] is odd
//      floats, kQuantises
//        with kNearest       k = the nearest integer to clamp(value, 0, 1) * in_scale, flipped as above
//        without             value = 1 - value, flips[v][p] times;
//                            k = trunc(clamp(value, 0, 1) * in_scale)
//      floats that stay      negative(value), flips[v][p] times. With kNearest the negative of a byte k / 255
//                            is (255 - k) / 255, and of any other float 1 - value; without, always 1 - value.
//      kNibbles              source and flips are of 2 * L *cells*: cell q < L is the low half of the integer
//                            made of value q, cell L + q its high half, and cells p and L + p of the result
//                            are the halves of k, each 15 - half where its flips are odd.
//      Every result that is still a float is rounded to the input type; clamp(NaN, 0, 1) is 0.
// 2. Substitution, of integers: table number table_of[v][p] counts from 1, and 0 is none.
//      k = table_of ? tables[(table_of - 1) * in_values + k] : min(k, out_values - 1)
// 3. Output, rounded to the output type.
//      integers              k for an integer output, output[c * out_values + k] for a float output
//      floats that stayed    (value - mean[c]) / std[c] with kNormalises, the value without
struct Plan {
  int32_t block_size;
  int32_t channels;
  int32_t length;  // L = block_size * block_size * channels
  int32_t cells;   // of a block: L, or 2 * L with kNibbles
  int32_t table_count;
  int32_t flags;
  int32_t in_values;
  int32_t out_values;
  int32_t variants;
  int32_t keys;
  int32_t grid_rows, grid_columns;  // blocks of an image; 0 without a grid
  int32_t images;
  // Pointers, also to the one value of in_scale, since the arrays of a plan may be in device memory.
  const float* in_scale;        // [1]
  const float* mean;            // [channels]
  const float* std;             // [channels]
  const int32_t* source;        // [variants][cells]
  const uint8_t* flips;         // [variants][cells]
  const uint16_t* table_of;     // [variants][length]
  const uint16_t* tables;       // [table_count][in_values]
  const float* output;          // [channels][out_values]
  const int32_t* moves;         // [keys][blocks of an image], where there is a grid
  const int32_t* variant;       // the same
  const int32_t* key_of_image;  // [images]

  BLOCKENC_HOST_DEVICE bool is_uniform() const { return keys == 1 && grid_rows == 0; }
  // A uniform plan of one of the variants.
  Plan of_variant(int64_t v) const {
    Plan plan = *this;
    plan.source += v * cells;
    plan.flips += v * cells;
    plan.table_of += v * length;
    plan.variants = plan.keys = 1;
    plan.images = plan.grid_rows = plan.grid_columns = 0;
    return plan;
  }
  BLOCKENC_HOST_DEVICE int64_t blocks() const { return int64_t{grid_rows} * grid_columns; }
  BLOCKENC_HOST_DEVICE int64_t positions() const { return int64_t{variants} * length; }
};

// Makes the pointers of `plan` point into the packed plan at `base`; returns how many bytes that has to have.
inline int64_t unpack_plan(const Header& header, const void* base, Plan* plan) {
  const uintptr_t start = reinterpret_cast<uintptr_t>(base);  // a number, since nothing lies behind nullptr
  int64_t offset = kHeaderBytes;
  auto section = [&](int64_t bytes) {
    const uintptr_t here = start + static_cast<uintptr_t>(offset);
    offset += (bytes + kSection - 1) / kSection * kSection;
    return here;
  };
  const int64_t c = header.channels, length = int64_t{header.block_size} * header.block_size * c;
  const int64_t cells = header.flags & kNibbles ? 2 * length : length;
  plan->block_size = header.block_size;
  plan->channels = header.channels;
  plan->length = static_cast<int32_t>(length);
  plan->cells = static_cast<int32_t>(cells);
  plan->table_count = header.tables;
  plan->flags = header.flags;
  plan->in_values = header.flags & kDecimalIn ? kDecimalValues : kByteValues;
  plan->out_values = header.flags & kDecimalOut ? kDecimalValues : kByteValues;
  plan->variants = header.variants;
  plan->keys = header.keys;
  plan->grid_rows = header.rows;
  plan->grid_columns = header.columns;
  plan->images = header.images;
  plan->in_scale = reinterpret_cast<const float*>(section(4 * (1 + 2 * c)));
  plan->mean = plan->in_scale + 1;
  plan->std = plan->mean + c;
  plan->source = reinterpret_cast<const int32_t*>(section(4 * header.variants * cells));
  plan->flips = reinterpret_cast<const uint8_t*>(section(header.variants * cells));
  plan->table_of = reinterpret_cast<const uint16_t*>(section(2 * header.variants * length));
  plan->tables = reinterpret_cast<const uint16_t*>(section(int64_t{2} * header.tables * plan->in_values));
  plan->output = reinterpret_cast<const float*>(section(4 * c * plan->out_values));
  plan->moves = reinterpret_cast<const int32_t*>(section(4 * header.keys * plan->blocks()));
  plan->variant = reinterpret_cast<const int32_t*>(section(4 * header.keys * plan->blocks()));
  plan->key_of_image = reinterpret_cast<const int32_t*>(section(int64_t{4} * header.images));
  return offset;
}

// A plan and the batch it is for. Strides are in elements, in the order N, C, H, W. Those of the input may be
// anything, also zero or negative; no two elements of the output may overlap, nor may one overlap the input.
struct Job {
  Plan plan;
  Header header;       // of the packed plan
  const void* packed;  // where that begins, in the memory that the kernel works on
  const void* in;
  void* out;
  Type in_type;
  Type out_type;
  int64_t n, h, w;
  int64_t in_stride[4];
  int64_t out_stride[4];
};

}  // namespace blockenc
