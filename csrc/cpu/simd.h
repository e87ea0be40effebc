// The instruction set that the kernels use, chosen at run time.
//
// A kernel with vector code has one file per level, *_avx2.cpp and *_avx512.cpp, which the build compiles for
// that level on x86-64, and a portable one. Such a file must not use functions of headers that the compiler may
// leave out of line (std::max, std::vector): the linker keeps one copy of each for the whole library, and it may
// be the one that an older processor cannot run.
#pragma once

namespace gloro_fast::cpu {

enum class Simd { portable, avx2, avx512 };

// The widest level that the processor and the system offer, capped by the environment variable GLORO_FAST_SIMD
// (portable, avx2 or avx512; anything else is no cap). Read at every call, so that a test may change it.
Simd simd_level();

}  // namespace gloro_fast::cpu
