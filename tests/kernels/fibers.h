// CUDA C++ on the CPU: every device thread is a fiber, all of them on one operating-system thread. This file gives
// the kernels of csrc/cuda what dialect.cuh gives them under nvcc; fibers.cpp runs them and finds divergent barriers,
// deadlocks and shared memory read before it was written (NaN). Under AddressSanitizer and ThreadSanitizer the fibers
// announce themselves, so that accesses out of bounds and data races between device threads are found too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

#include "half.h"

namespace fibers {

// A place in the kernel's source, to tell barriers apart.
struct Site {
  const char* file;
  int line;
};
#define FIBERS_SITE ::fibers::Site site = {__builtin_FILE(), __builtin_LINE()}

struct Index {
  unsigned x;
};
struct Position {
  Index thread, block;
};
const Position& position();
void* shared_memory();

void block_barrier(Site site);
void grid_barrier(Site site);
// Gives the value of the lane whose number differs in the bits `lanes`; all 32 lanes take part.
uint64_t exchange(uint64_t value, unsigned lanes, Site site);
// Copies to shared memory that land when their thread waits for them; until then NaN lies there. A thread that ends
// with copies under way is an error. The words themselves are moved by those who call, for the sanitizers to see.
struct Copy {
  float* to;
  const float* from;  // null for zeros
  unsigned words;
};
void start_copy(const Copy& copy);
void commit_copies();
struct Copies {
  const Copy *first, *last;
  const Copy* begin() const { return first; }
  const Copy* end() const { return last; }
};
Copies landed(unsigned left);  // of all groups but the last `left`, good until the next copy is started
// What mma.m16n8k8 adds to a lane's four sums; operands are a (4) and b (2). All 32 lanes take part.
void multiply_tf32(float (&sums)[4], const float (&operands)[6], Site site);
// Tells that something has changed on which others may wait, and lets others run.
void changed();
void wait_a_turn();

struct Shape {
  unsigned blocks = 1;
  unsigned threads = 256;
  size_t shared_bytes = 0;
  unsigned resident = 1u << 20;  // blocks that the device holds at once
  bool cooperative = false;
  // 0: ascending, 1: descending, else a seed for orders that change all the time.
  unsigned schedule = 0;
};

// Runs `kernel` for every thread. Throws std::runtime_error with what went wrong and where.
void launch(const Shape& shape, const std::function<void()>& kernel);

}  // namespace fibers

#define threadIdx (::fibers::position().thread)
#define blockIdx (::fibers::position().block)

#define GLORO_FAST_KERNEL(minimum_blocks) inline void
#define GLORO_FAST_PARAMETER(Type) const Type&
#define GLORO_FAST_DEVICE inline
#define GLORO_FAST_SHARED_MEMORY(name) float4* const name = static_cast<float4*>(::fibers::shared_memory())

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

inline void __syncthreads(FIBERS_SITE) {
  fibers::block_barrier(site);
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int lanes, FIBERS_SITE) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = fibers::exchange(bits, static_cast<unsigned>(lanes), site);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline double rsqrt(double value) {
  return 1 / std::sqrt(value);
}

namespace gloro_fast::cuda {

using std::max;
using std::min;

inline void grid_barrier(FIBERS_SITE) {
  fibers::grid_barrier(site);
}

inline void publish(uint64_t* to, uint64_t word) {
  __atomic_store_n(to, word, __ATOMIC_RELEASE);
  fibers::changed();
}

inline uint64_t published(const uint64_t* from) {
  fibers::wait_a_turn();
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}

inline float widen_bfloat16(uint16_t bits) {
  return cpu::widen(cpu::BFloat16{bits});
}
inline float widen_float16(uint16_t bits) {
  return cpu::widen(cpu::Half{bits});
}
inline uint16_t narrow_bfloat16(float value) {
  return cpu::narrow<cpu::BFloat16>(value).bits;
}
inline uint16_t narrow_float16(float value) {
  return cpu::narrow<cpu::Half>(value).bits;
}

inline void start_copy(float* to, const float* from, unsigned words, bool present) {
  std::fill(to, to + words, std::numeric_limits<float>::quiet_NaN());
  fibers::start_copy({to, present ? from : nullptr, words});
}
inline void copy_16_bytes(float* to, const float* from, bool present) {
  start_copy(to, from, 4, present);
}
inline void copy_4_bytes(float* to, const float* from, bool present) {
  start_copy(to, from, 1, present);
}
inline void commit_copies() {
  fibers::commit_copies();
}
template <int kLeft>
void wait_for_copies() {
  for (const fibers::Copy& copy : fibers::landed(kLeft))
    for (unsigned i = 0; i < copy.words; ++i) copy.to[i] = copy.from == nullptr ? 0.0f : copy.from[i];
}
inline void multiply_tf32(float (&sums)[4], float a0, float a1, float a2, float a3, float b0, float b1, FIBERS_SITE) {
  fibers::multiply_tf32(sums, {a0, a1, a2, a3, b0, b1}, site);
}

}  // namespace gloro_fast::cuda
