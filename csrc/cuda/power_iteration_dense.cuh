// Products of a dense layer: matrix and vector at the speed of memory, each weight read once a product, 16 bytes at a
// time where rows begin at multiples of 16.
#pragma once

#include "dialect.cuh"
#include "power_iteration_item.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// What a lane reads of the weights at once, kept as it lies in memory until it is used. Columns of a strip that an item
// of the transposed product takes: kDenseStripBytes of them.
struct FloatPack {
  static constexpr int kCount = 4;
  float4 four;
  GLORO_FAST_DEVICE static int strip(const LayerPlan&) { return kDenseStripBytes / 4; }
  GLORO_FAST_DEVICE void load(const LayerPlan& layer, int64_t index) {
    four = *reinterpret_cast<const float4*>(static_cast<const float*>(layer.weight) + index);
  }
  GLORO_FAST_DEVICE float value(const LayerPlan&, int i) const {
    return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
  }
};

template <WeightType kType>
struct HalfPack {
  static constexpr int kCount = 8;
  uint4 words;
  GLORO_FAST_DEVICE static int strip(const LayerPlan&) { return kDenseStripBytes / 2; }
  GLORO_FAST_DEVICE void load(const LayerPlan& layer, int64_t index) {
    words = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(layer.weight) + index);
  }
  GLORO_FAST_DEVICE float value(const LayerPlan&, int i) const {
    const unsigned pair = i < 2 ? words.x : i < 4 ? words.y : i < 6 ? words.z : words.w;
    const auto bits = static_cast<uint16_t>(pair >> 16 * (i % 2));
    return kType == WeightType::bfloat16 ? widen_bfloat16(bits) : widen_float16(bits);
  }
};

// Rows that do not begin at multiples of 16 bytes.
struct Single {
  static constexpr int kCount = 1;
  float weight;
  GLORO_FAST_DEVICE static int strip(const LayerPlan& layer) {
    return kDenseStripBytes / (layer.type == WeightType::float32 ? 4 : 2);
  }
  GLORO_FAST_DEVICE void load(const LayerPlan& layer, int64_t index) {
    weight = load_weight(layer.weight, layer.type, index);
  }
  GLORO_FAST_DEVICE float value(const LayerPlan&, int) const { return weight; }
};

// Stages in[first .. first + count) times scale, and zeros up to the next multiple of 8.
GLORO_FAST_DEVICE void stage_vector(float* staged, const float* in, int first, int count, Scale scale) {
  const int padded = (count + 7) / 8 * 8;
  for (int start = static_cast<int>(threadIdx.x); start < padded; start += kVectorLoads * kThreads) {
    float values[kVectorLoads];
#pragma unroll
    for (int load = 0; load < kVectorLoads; ++load) {
      const int i = start + load * kThreads;
      values[load] = i < count ? in[first + i] : 0.0f;
    }
#pragma unroll
    for (int load = 0; load < kVectorLoads; ++load) {
      const int i = start + load * kThreads;
      if (i < padded) staged[i] = values[load] * scale;
    }
  }
}

// u = W v: a warp takes kDenseRows rows, an item the rows of the block's warps. A vector that fits is staged only once.
template <typename Unit>
GLORO_FAST_DEVICE double multiply_rows(const LayerPlan& layer, const Tiling& tiling, const Step& step, float* staged) {
  constexpr int kSteps = kRowLoads / kDenseRows, kStep = 32 * Unit::kCount;
  const int rows = layer.group_outputs, columns = layer.group_inputs;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const bool whole = tiling.chunk >= columns;
  if (whole && first_item(layer) < tiling.items) {
    stage_vector(staged, step.in, 0, columns, step.scale);
    __syncthreads();
  }
  double square = 0;
  for (int item = first_item(layer); item < tiling.items; item += layer.blocks) {
    const int first_row = (item * kWarps + warp) * kDenseRows;
    float sums[kDenseRows] = {};
    for (int first = 0; first < columns; first += tiling.chunk) {
      const int count = min(tiling.chunk, columns - first);
      if (!whole) {
        __syncthreads();
        stage_vector(staged, step.in, first, count, step.scale);
        __syncthreads();
      }
      for (int start = lane * Unit::kCount; start < count; start += kSteps * kStep) {
        Unit weights[kSteps][kDenseRows] = {};  // what is not set lives on in a register from loop to loop
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const int column = start + s * kStep;
#pragma unroll
          for (int r = 0; r < kDenseRows; ++r)
            if (column < count && first_row + r < rows)
              weights[s][r].load(layer, static_cast<int64_t>(first_row + r) * columns + first + column);
        }
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const int column = start + s * kStep;
#pragma unroll
          for (int r = 0; r < kDenseRows; ++r) {
            if (column >= count || first_row + r >= rows) continue;
#pragma unroll
            for (int i = 0; i < Unit::kCount; ++i) sums[r] += weights[s][r].value(layer, i) * staged[column + i];
          }
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
    square += sum_of_squares(result);
  }
  return square;
}

// v = W^T u: an item is a strip of columns; 16 threads lie along it, 16 along the rows (of Single, more and fewer).
template <typename Unit>
GLORO_FAST_DEVICE double multiply_columns(const LayerPlan& layer, const Tiling& tiling, const Step& step,
                                          float* staged) {
  const int rows = layer.group_outputs, columns = layer.group_inputs;
  const int strip = Unit::strip(layer), lanes = strip / Unit::kCount, row_step = kThreads / lanes;
  const int thread = static_cast<int>(threadIdx.x), along = thread % lanes, down = thread / lanes;
  const bool whole = tiling.chunk >= rows;
  float* const joined = staged + tiling.window;  // [down][strip], behind the staged vector
  if (whole && first_item(layer) < tiling.items) stage_vector(staged, step.in, 0, rows, step.scale);
  double square = 0;
  for (int item = first_item(layer); item < tiling.items; item += layer.blocks) {
    const int column = item * strip + along * Unit::kCount;
    float sums[Unit::kCount] = {};
    __syncthreads();  // the vector is staged; of the item before, all sums have been joined
    for (int first = 0; first < rows; first += tiling.chunk) {
      const int count = min(tiling.chunk, rows - first);
      if (!whole) {
        __syncthreads();
        stage_vector(staged, step.in, first, count, step.scale);
        __syncthreads();
      }
      for (int start = down; start < count && column < columns; start += kColumnLoads * row_step) {
        Unit weights[kColumnLoads] = {};
#pragma unroll
        for (int s = 0; s < kColumnLoads; ++s)
          if (start + s * row_step < count)
            weights[s].load(layer, static_cast<int64_t>(first + start + s * row_step) * columns + column);
#pragma unroll
        for (int s = 0; s < kColumnLoads; ++s) {
          if (start + s * row_step >= count) continue;
          const float factor = staged[start + s * row_step];
#pragma unroll
          for (int i = 0; i < Unit::kCount; ++i) sums[i] += weights[s].value(layer, i) * factor;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < Unit::kCount; ++i) joined[down * strip + along * Unit::kCount + i] = sums[i];
    __syncthreads();
    float result[1] = {};
    if (thread < strip && item * strip + thread < columns) {
      for (int d = 0; d < row_step; ++d) result[0] += joined[d * strip + thread];
      step.out[item * strip + thread] = result[0];
    }
    square += sum_of_squares(result);
  }
  return square;
}

template <typename Unit>
GLORO_FAST_DEVICE double apply_dense_as(const LayerPlan& layer, const Step& step, float* memory) {
  return step.transposed ? multiply_columns<Unit>(layer, layer.transposed, step, memory)
                         : multiply_rows<Unit>(layer, layer.forward, step, memory);
}

// Writes out = W (in * scale), or W^T of it; returns this thread's part of the sum of its squares.
GLORO_FAST_DEVICE double apply_dense(const LayerPlan& layer, const Step& step, float* memory) {
  const int unit = layer.type == WeightType::float32 ? FloatPack::kCount : 8;
  if (layer.group_inputs % unit != 0 || reinterpret_cast<uintptr_t>(layer.weight) % 16 != 0)
    return apply_dense_as<Single>(layer, step, memory);
  switch (layer.type) {
    case WeightType::bfloat16:
      return apply_dense_as<HalfPack<WeightType::bfloat16>>(layer, step, memory);
    case WeightType::float16:
      return apply_dense_as<HalfPack<WeightType::float16>>(layer, step, memory);
    default:
      return apply_dense_as<FloatPack>(layer, step, memory);
  }
}

}  // namespace gloro_fast::cuda
