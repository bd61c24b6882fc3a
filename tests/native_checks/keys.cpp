// Keys of images without Python (csrc/keys), for sanitizers: what is derived and drawn goes to standard
// output, for tests/test_native_checks.py to compare with what Python derives.
//
//     keys LIBCRYPTO COUNT THREADS [plant=overwrite] <SUBKEYS
//
// SUBKEYS: 32 bytes for each of COUNT keys. All memory is on the heap and of exactly the size, for ASan.
// Out come: the subkeys for the infos "0", "1", ...; then twice, so that the second time begins within a
// block of AES, for each of several lengths numbers below 1, 2, 3, ..., below 2^32 at last, and two
// permutations; at last the tables of FF1. plant=overwrite gives the tables too little memory.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../../csrc/keys/draws.h"
#include "../../csrc/keys/libcrypto.h"

namespace {

template <class Number>
void put(const Number* numbers, int64_t count) {
  std::fwrite(numbers, sizeof(Number), static_cast<size_t>(count), stdout);
}

template <class Number>
std::unique_ptr<Number[]> heap(int64_t count) {
  return std::unique_ptr<Number[]>(new Number[static_cast<size_t>(count)]);
}

}  // namespace

int main(int arguments, char** argument) {
  if (arguments < 4) {
    std::fprintf(stderr, "usage: keys LIBCRYPTO COUNT THREADS [plant=overwrite] <SUBKEYS\n");
    return 2;
  }
  if (const std::string why = blockenc::find_libcrypto(argument[1]); !why.empty()) {
    std::fprintf(stderr, "keys: libcrypto: %s\n", why.c_str());
    return 2;
  }
  const int64_t count = std::atoll(argument[2]);
  const int threads = std::atoi(argument[3]);
  const bool planted = arguments > 4 && std::string(argument[4]) == "plant=overwrite";
  const auto subkeys = heap<uint8_t>(count * blockenc::kSubkeyBytes);
  const auto bytes = static_cast<size_t>(count * blockenc::kSubkeyBytes);
  if (std::fread(subkeys.get(), 1, bytes, stdin) != bytes) return 2;

  std::vector<std::string> infos;
  for (int64_t k = 0; k < count; ++k) infos.push_back(std::to_string(k));
  const auto expanded = heap<uint8_t>(count * blockenc::kSubkeyBytes);
  blockenc::expand(subkeys.get(), {infos.begin(), infos.end()}, expanded.get(), threads);
  put(expanded.get(), count * blockenc::kSubkeyBytes);

  const auto used = heap<int64_t>(count);
  for (int64_t k = 0; k < count; ++k) used[k] = 0;
  const blockenc::Keystreams streams{subkeys.get(), used.get(), count};
  for (int time = 0; time < 2; ++time) {
    for (const int64_t length : {0, 1, 47, 1500}) {
      const auto bounds = heap<int64_t>(length);
      for (int64_t n = 0; n < length; ++n) bounds[n] = n + 1 < length ? n + 1 : int64_t{1} << 32;
      const auto numbers = heap<int64_t>(count * length);
      blockenc::draw_uniforms(streams, bounds.get(), length, numbers.get(), threads);
      put(numbers.get(), count * length);
      const auto permutations = heap<int64_t>(count * 2 * length);
      blockenc::draw_permutations(streams, 2, length, permutations.get(), threads);
      put(permutations.get(), count * 2 * length);
    }
  }

  const auto tables = heap<uint16_t>(count * 256 - (planted ? 1 : 0));
  blockenc::make_byte_tables(subkeys.get(), count, tables.get(), threads);
  put(tables.get(), count * 256);
}
