// AES-256 and SHA-256 by OpenSSL's libcrypto, which this library is not linked with: it is found in the
// running program.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace blockenc {

constexpr int kSubkeyBytes = 32;  // and as many in a digest of SHA-256
constexpr int kAesBlock = 16;

// Looks for libcrypto in the shared library at `path` and what that is linked with, or, where path is null,
// in the program itself. To be called once, before all else. Returns why it cannot be used; "" if it can.
std::string find_libcrypto(const char* path);

// Overwrites a secret that is not needed any more.
void wipe(void* secret, size_t bytes);

// What follows throws the errors of libcrypto as std::runtime_error.

// One AES context, for one key after another.
class Aes256 {
 public:
  enum class Mode { counter, blocks };  // CTR, and each block on its own (ECB)

  explicit Aes256(Mode mode);
  ~Aes256();
  Aes256(const Aes256&) = delete;
  Aes256& operator=(const Aes256&) = delete;

  // The key for what follows. first_block: where the counter starts, which `blocks` has none of.
  void start(const uint8_t* key, uint64_t first_block = 0);
  void encrypt(const uint8_t* in, uint8_t* out, int bytes);

 private:
  void* context_;
};

// HMAC-SHA256 (RFC 2104) under a key of kSubkeyBytes, of one message after another.
class Hmac {
 public:
  explicit Hmac(const uint8_t* key);
  ~Hmac();
  Hmac(const Hmac&) = delete;
  Hmac& operator=(const Hmac&) = delete;

  void start();
  void update(const void* part, size_t bytes);
  void finish(uint8_t* digest);

 private:
  static constexpr int kBlock = 64;  // of SHA-256

  uint8_t inner_[kBlock], outer_[kBlock];
  void* context_;
};

}  // namespace blockenc
