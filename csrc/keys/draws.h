// What steps draw from keystreams, for many subkeys at once: docs/scheme.md, "Key schedule". The same numbers
// as blockenc/keys/keystream.py and blockenc/feistel/ff1.py draw in Python.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace blockenc {

// [infos, kSubkeyBytes]: HKDF-SHA256 (RFC 5869), 32 bytes for each info, of a key that is extracted already.
void expand(const uint8_t* extracted, const std::vector<std::string_view>& infos, uint8_t* subkeys,
            int threads);

// `count` keystreams: AES-256-CTR over zeros, read as little-endian words of 32 bits.
struct Keystreams {
  const uint8_t* subkeys;  // [count, kSubkeyBytes]
  int64_t* used;           // [count]: how many words of each were read; moved on by what is drawn
  int64_t count;
};

// [count, numbers]: each drawn uniformly from 0..bound - 1; bounds [numbers] are from 1 to 2^32.
void draw_uniforms(const Keystreams& streams, const int64_t* bounds, int64_t numbers, int64_t* drawn,
                   int threads);

// [count, permutations, length]: permutations of 0..length - 1, by Fisher-Yates from the last place down.
void draw_permutations(const Keystreams& streams, int64_t permutations, int64_t length, int64_t* drawn,
                       int threads);

// [count, 256]: FF1 (NIST SP 800-38G) of bytes as two hexadecimal numerals, under each of the keys
// [count, kSubkeyBytes].
void make_byte_tables(const uint8_t* keys, int64_t count, uint16_t* tables, int threads);

}  // namespace blockenc
