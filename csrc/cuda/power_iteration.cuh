// The two kernels: power iteration of all layers in one cooperative launch, and all their gradients in another launch.
#pragma once

#include "dialect.cuh"
#include "power_iteration_conv.cuh"
#include "power_iteration_dense.cuh"
#include "power_iteration_gradient.cuh"
#include "power_iteration_group.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// What the next product reads and writes, from the sum of the squares of what the one before gave; for one thread.
GLORO_FAST_DEVICE void prepare_step(const LayerPlan& layer, int step, double squares, Board& board) {
  const bool transposed = step % 2 != 0;
  if (step == 0) {
    board.right = layer.start;
    board.right_scale = {};
    board.next = layer.v;
  } else if (!transposed && usable(squares)) {  // otherwise the iterate is kept
    board.right = board.next;
    board.right_scale = unit_scale(squares);
    board.next = board.next == layer.v ? layer.spare : layer.v;
  }
  const Tiling& tiling = transposed ? layer.transposed : layer.forward;
  board.step.in = transposed ? layer.u : board.right;
  board.step.scale = transposed ? unit_scale(squares) : board.right_scale;
  board.step.out = transposed ? board.next : layer.u;
  board.step.transposed = transposed;
  board.step.stage = !tiling.resident || step < 2;
}

GLORO_FAST_DEVICE bool is_mine(const LayerPlan& layer) {
  const int block = static_cast<int>(blockIdx.x) - layer.first_block;
  return block >= 0 && block < layer.blocks;
}

// Writes sigma, the iterate and u, both divided by their norms.
GLORO_FAST_DEVICE void finish_layer(const LayerPlan& layer, double squares, Board& board) {
  const int block = static_cast<int>(blockIdx.x) - layer.first_block;
  if (threadIdx.x == 0) {
    board.norm = sqrt(squares);
    board.step.scale = unit_scale(squares);
  }
  __syncthreads();
  const double infinity = static_cast<double>(__int_as_float(0x7f800000));
  if (block == 0 && threadIdx.x == 0)
    *layer.sigma = board.norm == infinity ? __int_as_float(0x7fc00000) : static_cast<float>(board.norm);
  const AxisPlan &height = layer.height, &width = layer.width;
  const int inputs = layer.groups * layer.group_inputs * height.input * width.input;
  const int outputs = layer.groups * layer.group_outputs * height.output * width.output;
  const int first = block * kThreads + static_cast<int>(threadIdx.x), step = layer.blocks * kThreads;
  const Scale left_scale = board.step.scale;
  for (int i = first; i < inputs; i += step) layer.v[i] = board.right[i] * board.right_scale;
  for (int i = first; i < outputs; i += step) layer.u[i] = layer.u[i] * left_scale;
}

GLORO_FAST_KERNEL(kBlocksPerMultiprocessor) power_iteration_kernel(GLORO_FAST_PARAMETER(Launch) launch) {
  GLORO_FAST_SHARED_MEMORY(shared);
  Board& board = *reinterpret_cast<Board*>(shared);
  float* const memory = reinterpret_cast<float*>(shared) + kReservedBytes / 4;
  if (threadIdx.x == 0)
    for (int i = 0; i < launch.layers; ++i)
      if (is_mine(launch.layer[i])) clear_squares(launch.layer[i]);
  grid_barrier();
  for (int i = 0; i < launch.layers; ++i) {
    const LayerPlan& layer = launch.layer[i];
    if (!is_mine(layer)) continue;
    double squares = 0;  // of what the product before gave; in the first warp
    for (int step = 0; step <= 2 * launch.iterations; ++step) {
      const Tiling& tiling = step % 2 != 0 ? layer.transposed : layer.forward;
      if (threadIdx.x == 0) prepare_step(layer, step, squares, board);
      // A warp that does not wait for the other blocks finds the item meanwhile.
      if (threadIdx.x == 32 && !layer.dense) board.item = find_item(layer, tiling, step % 2 != 0, first_item(layer));
      __syncthreads();
      const double square = layer.dense ? apply_dense(layer, board.step, memory)
                            : tiling.thread_pixels == kThreadPixels
                                ? apply_conv<kThreadPixels>(layer, tiling, board, memory)
                                : apply_conv<kFewThreadPixels>(layer, tiling, board, memory);
      squares = meet(layer, step, square, board);
    }
    finish_layer(layer, squares, board);
    __syncthreads();
  }
}

GLORO_FAST_KERNEL(kBlocksPerMultiprocessor) power_iteration_gradient_kernel(GLORO_FAST_PARAMETER(Launch) launch) {
  GLORO_FAST_SHARED_MEMORY(shared);
  float* const memory = reinterpret_cast<float*>(shared) + kReservedBytes / 4;
  for (int i = 0; i < launch.layers; ++i) {
    const LayerPlan& layer = launch.layer[i];
    const int item = static_cast<int>(blockIdx.x) - layer.first_block;
    if (item < 0 || item >= layer.blocks) continue;
    const float factor = *layer.sigma;
    if (layer.dense)
      write_dense_gradient(layer, item, factor, memory);
    else
      write_conv_gradient(layer, item, factor, memory);
  }
}

}  // namespace gloro_fast::cuda
