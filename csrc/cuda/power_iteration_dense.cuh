// Products of a dense layer: matrix and vector at the speed of memory, each weight read once a product, 16 bytes at a
// time where rows begin at multiples of 16.
#pragma once

#include "dialect.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// Reads up to 16 bytes of weights as floats; beyond `count` there are zeros.
struct FloatPack {
  static constexpr int kCount = 4;
  GLORO_FAST_DEVICE static void load(float (&to)[kCount], const LayerPlan& layer, int64_t index, int count,
                                     bool aligned) {
    const float* from = static_cast<const float*>(layer.weight) + index;
    if (aligned) {
      const float4 four = *reinterpret_cast<const float4*>(from);
      to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) to[i] = i < count ? from[i] : 0.0f;
    }
  }
};

// The two half types share their code, to keep the kernel small.
struct HalfPack {
  static constexpr int kCount = 8;
  GLORO_FAST_DEVICE static float widen(const LayerPlan& layer, unsigned bits) {
    const auto half = static_cast<uint16_t>(bits);
    return layer.type == WeightType::bfloat16 ? widen_bfloat16(half) : widen_float16(half);
  }
  GLORO_FAST_DEVICE static void load(float (&to)[kCount], const LayerPlan& layer, int64_t index, int count,
                                     bool aligned) {
    const uint16_t* from = static_cast<const uint16_t*>(layer.weight) + index;
    if (aligned) {
      const uint4 words = *reinterpret_cast<const uint4*>(from);
      const unsigned pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        to[2 * i] = widen(layer, pairs[i] & 0xffffu), to[2 * i + 1] = widen(layer, pairs[i] >> 16);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) to[i] = i < count ? widen(layer, from[i]) : 0.0f;
    }
  }
};

// Stages in[first .. first + count) times scale, and zeros up to the next multiple of 8.
GLORO_FAST_DEVICE void stage_vector(float* staged, const float* in, int first, int count, Scale scale) {
  for (int i = static_cast<int>(threadIdx.x); i < (count + 7) / 8 * 8; i += kThreads)
    staged[i] = i < count ? in[first + i] * scale : 0.0f;
}

// u = W v: a warp takes two rows, an item the rows of the block's warps. A vector that fits is staged only once.
template <typename Unit>
GLORO_FAST_DEVICE void multiply_rows(const LayerPlan& layer, const Tiling& tiling, Board& board, float* staged) {
  const Step& step = board.step;
  const int rows = layer.group_outputs, columns = layer.group_inputs;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first_item = static_cast<int>(blockIdx.x) - layer.first_block;
  const bool whole = tiling.chunk >= columns;
  const bool aligned = columns % Unit::kCount == 0 && reinterpret_cast<uintptr_t>(layer.weight) % 16 == 0;
  if (whole && first_item < tiling.items) {
    stage_vector(staged, step.in, 0, columns, step.scale);
    __syncthreads();
  }
  for (int item = first_item; item < tiling.items; item += layer.blocks) {
    const int first_row = (item * kWarps + warp) * kDenseRows;
    float sums[kDenseRows] = {};
    for (int first = 0; first < columns; first += tiling.chunk) {
      const int count = min(tiling.chunk, columns - first);
      if (!whole) {
        __syncthreads();
        stage_vector(staged, step.in, first, count, step.scale);
        __syncthreads();
      }
#pragma unroll 2
      for (int column = lane * Unit::kCount; column < count; column += 32 * Unit::kCount) {
#pragma unroll
        for (int r = 0; r < kDenseRows; ++r) {
          if (first_row + r >= rows) continue;
          float weights[Unit::kCount];
          Unit::load(weights, layer, static_cast<int64_t>(first_row + r) * columns + first + column, count - column,
                     aligned);
#pragma unroll
          for (int i = 0; i < Unit::kCount; ++i) sums[r] += weights[i] * staged[column + i];
        }
      }
    }
    float result[kDenseRows];
#pragma unroll
    for (int r = 0; r < kDenseRows; ++r) {
      float sum = sums[r];
      for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      const bool mine = lane == 0 && first_row + r < rows;
      if (mine) step.out[first_row + r] = sum;
      result[r] = mine ? sum : 0.0f;
    }
    write_sum_over_block(sum_of_squares(result), board, step.squares + item);
  }
}

// v = W^T u: an item is a strip of columns 256 bytes wide; 16 threads lie along it, 16 along the rows.
template <typename Unit>
GLORO_FAST_DEVICE void multiply_columns(const LayerPlan& layer, const Tiling& tiling, Board& board, float* staged) {
  const Step& step = board.step;
  constexpr int kAlong = kDenseStripBytes / 16, kDown = kThreads / kAlong, kStrip = kAlong * Unit::kCount;
  const int rows = layer.group_outputs, columns = layer.group_inputs;
  const int thread = static_cast<int>(threadIdx.x), along = thread % kAlong, down = thread / kAlong;
  const int first_item = static_cast<int>(blockIdx.x) - layer.first_block;
  const bool whole = tiling.chunk >= rows;
  const bool aligned = columns % Unit::kCount == 0 && reinterpret_cast<uintptr_t>(layer.weight) % 16 == 0;
  float* const joined = staged + tiling.window;  // [down][strip], behind the staged vector
  if (whole && first_item < tiling.items) {
    stage_vector(staged, step.in, 0, rows, step.scale);
    __syncthreads();
  }
  for (int item = first_item; item < tiling.items; item += layer.blocks) {
    const int column = item * kStrip + along * Unit::kCount;
    float sums[Unit::kCount] = {};
    for (int first = 0; first < rows; first += tiling.chunk) {
      const int count = min(tiling.chunk, rows - first);
      if (!whole) {
        __syncthreads();
        stage_vector(staged, step.in, first, count, step.scale);
        __syncthreads();
      }
      if (column < columns) {
#pragma unroll 2
        for (int row = down; row < count; row += kDown) {
          float weights[Unit::kCount];
          Unit::load(weights, layer, static_cast<int64_t>(first + row) * columns + column, columns - column, aligned);
#pragma unroll
          for (int i = 0; i < Unit::kCount; ++i) sums[i] += weights[i] * staged[row];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < Unit::kCount; ++i) joined[down * kStrip + along * Unit::kCount + i] = sums[i];
    __syncthreads();
    float result[1] = {};
    if (thread < kStrip && item * kStrip + thread < columns) {
      for (int d = 0; d < kDown; ++d) result[0] += joined[d * kStrip + thread];
      step.out[item * kStrip + thread] = result[0];
    }
    write_sum_over_block(sum_of_squares(result), board, step.squares + item);
  }
}

template <typename Unit>
GLORO_FAST_DEVICE void apply_dense_as(const LayerPlan& layer, Board& board, float* memory) {
  if (board.step.transposed)
    multiply_columns<Unit>(layer, layer.transposed, board, memory);
  else
    multiply_rows<Unit>(layer, layer.forward, board, memory);
}

// Writes out = W (in * scale), or W^T of it, and a sum of squares for each item.
GLORO_FAST_DEVICE void apply_dense(const LayerPlan& layer, Board& board, float* memory) {
  if (layer.type == WeightType::float32)
    apply_dense_as<FloatPack>(layer, board, memory);
  else
    apply_dense_as<HalfPack>(layer, board, memory);
}

}  // namespace gloro_fast::cuda
