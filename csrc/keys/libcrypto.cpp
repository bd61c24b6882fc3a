#include "libcrypto.h"

#include <dlfcn.h>

#include <stdexcept>

namespace blockenc {
namespace {

// The functions used, as OpenSSL 3 declares them (EVP_EncryptInit(3)), with their types as opaque pointers.
struct Libcrypto {
  void* (*EVP_CIPHER_fetch)(void* library, const char* algorithm, const char* properties);
  void* (*EVP_CIPHER_CTX_new)();
  void (*EVP_CIPHER_CTX_free)(void* context);
  int (*EVP_EncryptInit_ex)(void* context, const void* cipher, void* engine, const unsigned char* key,
                            const unsigned char* counter);
  int (*EVP_EncryptUpdate)(void* context, unsigned char* out, int* out_bytes, const unsigned char* in,
                           int in_bytes);
  int (*EVP_CIPHER_CTX_set_padding)(void* context, int padding);
  void* (*EVP_MD_fetch)(void* library, const char* algorithm, const char* properties);
  void* (*EVP_MD_CTX_new)();
  void (*EVP_MD_CTX_free)(void* context);
  int (*EVP_DigestInit_ex)(void* context, const void* digest, void* engine);
  int (*EVP_DigestUpdate)(void* context, const void* data, size_t bytes);
  int (*EVP_DigestFinal_ex)(void* context, unsigned char* digest, unsigned int* bytes);
  void (*OPENSSL_cleanse)(void* secret, size_t bytes);
  // Fetched once: a context that names an algorithm would look it up under a lock, which a fork may leave
  // locked.
  void *counter, *blocks, *sha256;
};

Libcrypto libcrypto{};

template <class Function>
bool find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

void check(bool good) {
  if (!good) throw std::runtime_error("libcrypto: a function failed");
}

void check_found() {
  if (!libcrypto.sha256) throw std::logic_error("libcrypto: it was not found");
}

}  // namespace

std::string find_libcrypto(const char* path) {
  if (libcrypto.sha256) return "";
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);  // never closed
  if (!library) return dlerror();
  Libcrypto found{};
#define BLOCKENC_FIND(name) \
  if (!find(library, #name, found.name)) return std::string("it has no ") + #name;
  BLOCKENC_FIND(EVP_CIPHER_fetch)  // since OpenSSL 3.0
  BLOCKENC_FIND(EVP_CIPHER_CTX_new)
  BLOCKENC_FIND(EVP_CIPHER_CTX_free)
  BLOCKENC_FIND(EVP_EncryptInit_ex)
  BLOCKENC_FIND(EVP_EncryptUpdate)
  BLOCKENC_FIND(EVP_CIPHER_CTX_set_padding)
  BLOCKENC_FIND(EVP_MD_fetch)
  BLOCKENC_FIND(EVP_MD_CTX_new)
  BLOCKENC_FIND(EVP_MD_CTX_free)
  BLOCKENC_FIND(EVP_DigestInit_ex)
  BLOCKENC_FIND(EVP_DigestUpdate)
  BLOCKENC_FIND(EVP_DigestFinal_ex)
  BLOCKENC_FIND(OPENSSL_cleanse)
#undef BLOCKENC_FIND
  found.counter = found.EVP_CIPHER_fetch(nullptr, "AES-256-CTR", nullptr);
  found.blocks = found.EVP_CIPHER_fetch(nullptr, "AES-256-ECB", nullptr);
  found.sha256 = found.EVP_MD_fetch(nullptr, "SHA256", nullptr);
  if (!found.counter || !found.blocks || !found.sha256) return "its providers lack AES-256 or SHA-256";
  libcrypto = found;
  return "";
}

void wipe(void* secret, size_t bytes) { libcrypto.OPENSSL_cleanse(secret, bytes); }

Aes256::Aes256(Mode mode) {
  check_found();
  context_ = libcrypto.EVP_CIPHER_CTX_new();
  const void* cipher = mode == Mode::counter ? libcrypto.counter : libcrypto.blocks;
  if (!context_ || libcrypto.EVP_EncryptInit_ex(context_, cipher, nullptr, nullptr, nullptr) != 1 ||
      libcrypto.EVP_CIPHER_CTX_set_padding(context_, 0) != 1) {
    libcrypto.EVP_CIPHER_CTX_free(context_);
    check(false);
  }
}

Aes256::~Aes256() { libcrypto.EVP_CIPHER_CTX_free(context_); }  // which wipes the key in it

void Aes256::start(const uint8_t* key, uint64_t first_block) {
  uint8_t counter[kAesBlock] = {};
  for (int k = 0; k < 8; ++k) counter[kAesBlock - 1 - k] = static_cast<uint8_t>(first_block >> 8 * k);
  check(libcrypto.EVP_EncryptInit_ex(context_, nullptr, nullptr, key, counter) == 1);
}

void Aes256::encrypt(const uint8_t* in, uint8_t* out, int bytes) {
  int written = 0;
  check(libcrypto.EVP_EncryptUpdate(context_, out, &written, in, bytes) == 1 && written == bytes);
}

Hmac::Hmac(const uint8_t* key) {
  check_found();
  context_ = libcrypto.EVP_MD_CTX_new();
  check(context_);
  for (int k = 0; k < kBlock; ++k) {
    const uint8_t byte = k < kSubkeyBytes ? key[k] : 0;
    inner_[k] = byte ^ 0x36;
    outer_[k] = byte ^ 0x5c;
  }
}

Hmac::~Hmac() {
  libcrypto.EVP_MD_CTX_free(context_);  // which wipes what it holds
  wipe(inner_, kBlock);
  wipe(outer_, kBlock);
}

void Hmac::start() {
  check(libcrypto.EVP_DigestInit_ex(context_, libcrypto.sha256, nullptr) == 1);
  update(inner_, kBlock);
}

void Hmac::update(const void* part, size_t bytes) {
  check(libcrypto.EVP_DigestUpdate(context_, part, bytes) == 1);
}

void Hmac::finish(uint8_t* digest) {
  check(libcrypto.EVP_DigestFinal_ex(context_, digest, nullptr) == 1);
  check(libcrypto.EVP_DigestInit_ex(context_, libcrypto.sha256, nullptr) == 1);
  update(outer_, kBlock);
  update(digest, kSubkeyBytes);
  check(libcrypto.EVP_DigestFinal_ex(context_, digest, nullptr) == 1);
}

}  // namespace blockenc
