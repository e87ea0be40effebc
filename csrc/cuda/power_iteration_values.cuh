// Weights of any type, norms in which no square vanishes or overflows, and sums over a block.
#pragma once

#include "dialect.cuh"
#include "power_iteration_item.cuh"
#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

GLORO_FAST_DEVICE float load_weight(const void* weight, WeightType type, int64_t index) {
  if (type == WeightType::float32) return static_cast<const float*>(weight)[index];
  const uint16_t bits = static_cast<const uint16_t*>(weight)[index];
  return type == WeightType::bfloat16 ? widen_bfloat16(bits) : widen_float16(bits);
}

GLORO_FAST_DEVICE void store_weight(void* weight, WeightType type, int64_t index, float value) {
  if (type == WeightType::float32) {
    static_cast<float*>(weight)[index] = value;
  } else {
    static_cast<uint16_t*>(weight)[index] =
        type == WeightType::bfloat16 ? narrow_bfloat16(value) : narrow_float16(value);
  }
}

// The factor that gives a vector unit length, in two parts: 1e-40 has no reciprocal in float.
struct Scale {
  float coarse = 1, fine = 1;
};

GLORO_FAST_DEVICE float operator*(float value, Scale scale) {
  return value * scale.coarse * scale.fine;
}

GLORO_FAST_DEVICE bool usable(double squares) {
  return squares > 0 && squares < 1e300;
}

// From the sum of the squares. One reciprocal square root, since every product waits for it.
GLORO_FAST_DEVICE Scale unit_scale(double squares) {
  if (!usable(squares)) return {};
  const float coarse = squares < 0x1p-128 ? 0x1p64f : squares > 0x1p128 ? 0x1p-64f : 1.0f;
  return {coarse, static_cast<float>(rsqrt(squares * coarse * coarse))};
}

// The sum of squares of a few values, as a double, with one multiplication a value in float: double arithmetic runs
// at a 64th of its speed on most cards. The values are scaled by a power of two, which rounds nothing.
template <int kCount>
GLORO_FAST_DEVICE double sum_of_squares(const float (&values)[kCount]) {
  constexpr int kChains = kCount < 4 ? kCount : 4;  // so that an addition seldom waits for the one before
  float largest[kChains] = {}, sums[kChains] = {};
#pragma unroll
  for (int i = 0; i < kCount; ++i) largest[i % kChains] = fmaxf(largest[i % kChains], fabsf(values[i]));
#pragma unroll
  for (int i = 1; i < kChains; ++i) largest[0] = fmaxf(largest[0], largest[i]);
  const int exponent = min(max(__float_as_int(largest[0]) >> 23, 1), 252);
  const float down = __int_as_float((254 - exponent) << 23);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float scaled = values[i] * down;
    sums[i % kChains] += scaled * scaled;
  }
#pragma unroll
  for (int i = 1; i < kChains; ++i) sums[0] += sums[i];
  const double up = __int_as_float(exponent << 23);
  return static_cast<double>(sums[0]) * up * up;
}

GLORO_FAST_DEVICE double sum_over_warp(double value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// One product: what it reads and writes.
struct Step {
  const float* in;
  Scale scale;  // of `in`: a vector is divided by its norm when it is read, since that is known only after a barrier
  float* out;
  bool transposed;
  bool stage;  // bring weights to shared memory that stay there afterwards
};

// Shared memory in which the threads of a block tell each other what all of them need. It is here and not in
// registers, which the sums of a convolution fill.
struct Board {
  double warp[kWarps];
  double norm;
  Step step;
  ConvItem item;  // of a convolution: which its block works on
  // The iterate is right * right_scale; the next one goes to `next`.
  const float* right;
  float* next;
  Scale right_scale;
};
static_assert(sizeof(Board) <= kReservedBytes, "the board does not fit before the layouts");

}  // namespace gloro_fast::cuda
