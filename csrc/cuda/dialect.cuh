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

// Copies 16 (or 4) bytes of global memory to shared memory behind the thread's back, or zeros where `present` is false;
// nothing is read then. They are there after wait_for_copies, for other threads after a barrier on top of that.
GLORO_FAST_DEVICE void copy_16_bytes(float* to, const float* from, bool present) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
      "l"(from), "r"(present ? 16 : 0));
}
GLORO_FAST_DEVICE void copy_4_bytes(float* to, const float* from, bool present) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
      "l"(from), "r"(present ? 4 : 0));
}
// Closes a group of copies, which may be empty.
GLORO_FAST_DEVICE void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits for all groups of this thread but the last `kLeft`.
template <int kLeft>
GLORO_FAST_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Adds a product of matrices, 16 x 8 by 8 x 8, to what the 32 lanes hold; of every factor the hardware takes 10 bits
// after the point. Lane 4 g + t gives a at (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), b at (t, g), (t + 4, g), and
// holds sums at (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
GLORO_FAST_DEVICE void multiply_tf32(float (&sums)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

}  // namespace gloro_fast::cuda

#else
#include "fibers.h"
#endif
