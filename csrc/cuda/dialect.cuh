// The few words in which the kernels speak to the device. nvcc gives them here; a host compiler is given them by the
// test harness, which runs the same kernels as plain C++.
#pragma once

#ifdef __CUDACC__

// Without libcu++, of which the grid barrier needs nothing: power_iteration.cu then compiles in 7.8 s of processor time
// for one architecture instead of 11.4 s.
#define _CG_LIMIT_INCLUDED_DEPENDENCIES
#include <cooperative_groups.h>

#include <cstdint>

#define GLORO_FAST_KERNEL(minimum_blocks) \
  __global__ void __launch_bounds__(::gloro_fast::cuda::kThreads, minimum_blocks)
#define GLORO_FAST_PARAMETER(Type) const __grid_constant__ Type
#define GLORO_FAST_DEVICE __device__ __forceinline__
#define GLORO_FAST_SHARED_MEMORY(name) extern __shared__ float4 name[]

namespace gloro_fast::cuda {

GLORO_FAST_DEVICE void grid_barrier() {
  cooperative_groups::this_grid().sync();
}

// Writes a word for other blocks, after everything that this thread has seen happen.
GLORO_FAST_DEVICE void publish(uint64_t* to, uint64_t word) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

// Reads such a word, before everything that this thread does next.
GLORO_FAST_DEVICE uint64_t published(const uint64_t* from) {
  uint64_t word;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}

GLORO_FAST_DEVICE float widen_bfloat16(uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}
GLORO_FAST_DEVICE float widen_float16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
GLORO_FAST_DEVICE uint16_t narrow_bfloat16(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
GLORO_FAST_DEVICE uint16_t narrow_float16(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

}  // namespace gloro_fast::cuda

#else
#include "fibers.h"
#endif
