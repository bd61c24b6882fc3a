// Comes before each source file of the build "avx512-simde", all of which is compiled for AVX2: of the
// kernels it runs those of AVX-512, in AVX2's instructions, and the portable ones.

#pragma once

inline bool simulated(const char* feature) { return feature[3] == '5' && __builtin_cpu_supports("avx2"); }

// csrc/cpu/simd/target.h and instruction_sets.h.
#define BLOCKENC_TARGET_BEGIN(features)
#define BLOCKENC_TARGET_END
#define __builtin_cpu_supports(feature) simulated(feature)
