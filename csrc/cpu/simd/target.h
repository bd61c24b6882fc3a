// What the file of an instruction set is made of, besides its `Vector`:
//
//   #include "target.h"
//   BLOCKENC_TARGET_BEGIN("avx2")       what follows is compiled for it, as by -mavx2
//   namespace blockenc {
//   namespace {
//   struct Vector { ... };              and Lane
//   }
//   }
//   #include "kernels-inl.h"
//   BLOCKENC_TARGET_END
//   BLOCKENC_DEFINE_MAKE(avx2)          the name of its row in instruction_sets.h
//
// An instruction set that every processor of its kind has needs no BEGIN and END.

#pragma once

// Included here, before a target is chosen, since the linker keeps one copy of an inline function that
// several files share, and that copy must run on every processor.
#include "../../values.h"
#include "../kernels.h"

// A build for one target alone may define both as nothing (tests/native_checks does, for SIMDe).
#ifndef BLOCKENC_TARGET_BEGIN
#define BLOCKENC_PRAGMA(tokens) _Pragma(#tokens)
#ifdef __clang__
#define BLOCKENC_TARGET_BEGIN(features) \
  BLOCKENC_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define BLOCKENC_TARGET_END BLOCKENC_PRAGMA(clang attribute pop)
#else
#define BLOCKENC_TARGET_BEGIN(features) \
  BLOCKENC_PRAGMA(GCC push_options)     \
  BLOCKENC_PRAGMA(GCC target(features))
#define BLOCKENC_TARGET_END BLOCKENC_PRAGMA(GCC pop_options)
#endif
#endif

#define BLOCKENC_DEFINE_MAKE(name)                                                                   \
  std::unique_ptr<const blockenc::Kernel> blockenc::make_##name(const Plan& plan, Type in, Type out, \
                                                                Layout layout) {                     \
    return make_kernel(plan, in, out, layout);                                                       \
  }
