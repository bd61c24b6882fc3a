// AVX-512 in other instructions, by SIMDe (https://github.com/simd-everywhere/simde), so that its kernels run
// on processors that do not have it. This folder comes first on the include path, and csrc/ stays as it is.

#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

// What SIMDe does not have: a store past the caches, which faults where its address is not aligned.
inline void checked_stream(void* to, __m512i x) {
  if (reinterpret_cast<std::uintptr_t>(to) % 64) {
    std::fputs("_mm512_stream_si512: expected a multiple of 64\n", stderr);
    std::abort();
  }
  simde_mm512_store_si512(to, x);
}
#define _mm512_stream_si512(to, x) checked_stream(to, x)
