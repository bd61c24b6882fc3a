// The instruction sets that the vector kernel is compiled for, the fastest first. To add one: write a file
// with its `Vector` (kernels-inl.h says what that needs) and add a row here.

#pragma once

// ROW(name, whether this processor has it). The name is that of the level, of the file and of make_<name>.
#if defined(__x86_64__) && defined(__GNUC__)
#define BLOCKENC_INSTRUCTION_SETS(ROW)                                                         \
  ROW(avx512_vbmi, __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && \
                       __builtin_cpu_supports("avx512vbmi"))                                   \
  ROW(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#elif defined(__aarch64__)
#define BLOCKENC_INSTRUCTION_SETS(ROW) ROW(neon, true)
#else
#define BLOCKENC_INSTRUCTION_SETS(ROW)
#endif
