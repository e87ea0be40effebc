// The two kernels: power iteration of all layers in one cooperative launch, and all their gradients in another launch.
#pragma once

#include "dialect.cuh"
#include "power_iteration_conv.cuh"
#include "power_iteration_dense.cuh"
#include "power_iteration_gemm.cuh"
#include "power_iteration_gemm_gradient.cuh"
#include "power_iteration_gradient.cuh"
#include "power_iteration_group.cuh"
#include "power_iteration_pack.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// What the products read and write: the caller's vectors, or packed ones.
template <bool kWide>
struct Vectors {
  const float* start;
  float *v, *other, *u;

  GLORO_FAST_DEVICE explicit Vectors(const LayerPlan& layer)
      : start(layer.start), v(layer.v), other(layer.spare), u(layer.u) {
    if (!kWide || !layer.wide) return;
    const Packed packed(layer);
    start = other = packed.v[1];
    v = packed.v[0];
    u = packed.u;
  }
};

// What the next product reads and writes, from the sum of the squares of what the one before gave; for one thread.
template <bool kWide>
GLORO_FAST_DEVICE void prepare_step(const LayerPlan& layer, int step, double squares, Board& board) {
  const bool transposed = step % 2 != 0;
  const Vectors<kWide> vectors(layer);
  if (step == 0) {
    board.right = vectors.start;
    board.right_scale = {};
    board.next = vectors.v;
  } else if (!transposed && usable(squares)) {  // otherwise the iterate is kept
    board.right = board.next;
    board.right_scale = unit_scale(squares);
    board.next = board.next == vectors.v ? vectors.other : vectors.v;
  }
  const Tiling& tiling = transposed ? layer.transposed : layer.forward;
  board.step.in = transposed ? vectors.u : board.right;
  board.step.scale = transposed ? unit_scale(squares) : board.right_scale;
  board.step.out = transposed ? board.next : vectors.u;
  board.step.transposed = transposed;
  board.step.stage = !tiling.resident || step < 2;
}

GLORO_FAST_DEVICE bool is_mine(const LayerPlan& layer) {
  const int block = static_cast<int>(blockIdx.x) - layer.first_block;
  return block >= 0 && block < layer.blocks;
}

// Writes sigma, the iterate and u, both divided by their norms.
template <bool kWide>
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
  if (kWide && layer.wide) {
    unpack_vector(layer.v, board.right, layer.group_inputs, layer.groups, height.input * width.input, board.right_scale,
                  first, step);
    unpack_vector(layer.u, Packed(layer).u, layer.group_outputs, layer.groups, height.output * width.output, left_scale,
                  first, step);
    return;
  }
  for (int i = first; i < inputs; i += step) layer.v[i] = board.right[i] * board.right_scale;
  for (int i = first; i < outputs; i += step) layer.u[i] = layer.u[i] * left_scale;
}

template <bool kWide>
GLORO_FAST_DEVICE void iterate(const Launch& launch) {
  GLORO_FAST_SHARED_MEMORY(shared);
  Board& board = *reinterpret_cast<Board*>(shared);
  float* const memory = reinterpret_cast<float*>(shared) + kReservedBytes / 4;
  for (int i = 0; i < launch.layers; ++i) {
    const LayerPlan& layer = launch.layer[i];
    if (!is_mine(layer)) continue;
    if (threadIdx.x == 0) clear_squares(layer);
    if (kWide && layer.wide) pack_layer(layer);
  }
  grid_barrier();
  for (int i = 0; i < launch.layers; ++i) {
    const LayerPlan& layer = launch.layer[i];
    if (!is_mine(layer)) continue;
    double squares = 0;  // of what the product before gave; in the first warp
    for (int step = 0; step <= 2 * launch.iterations; ++step) {
      const Tiling& tiling = step % 2 != 0 ? layer.transposed : layer.forward;
      if (threadIdx.x == 0) prepare_step<kWide>(layer, step, squares, board);
      // A warp that does not wait for the other blocks finds the item meanwhile.
      if (threadIdx.x == 32 && !layer.dense) board.item = find_item(layer, tiling, step % 2 != 0, first_item(layer));
      __syncthreads();
      const double square =
          layer.dense           ? apply_dense(layer, board.step, memory)
          : kWide && layer.wide ? apply_gemm(layer, tiling, board, memory, step == 2 * launch.iterations)
          : tiling.thread_pixels == kThreadPixels ? apply_conv<kThreadPixels>(layer, tiling, board, memory)
                                                  : apply_conv<kFewThreadPixels>(layer, tiling, board, memory);
      squares = meet(layer, step, square, board);
    }
    finish_layer<kWide>(layer, squares, board);
    __syncthreads();
  }
}

GLORO_FAST_KERNEL(kBlocksPerMultiprocessor) power_iteration_kernel(GLORO_FAST_PARAMETER(Launch) launch) {
  iterate<false>(launch);
}

// For launches with wide layers: one block a multiprocessor, whose threads have twice the registers.
GLORO_FAST_KERNEL(1) power_iteration_wide_kernel(GLORO_FAST_PARAMETER(Launch) launch) {
  iterate<true>(launch);
}

template <bool kWide>
GLORO_FAST_DEVICE void write_gradients(const Launch& launch) {
  GLORO_FAST_SHARED_MEMORY(shared);
  float* const memory = reinterpret_cast<float*>(shared) + kReservedBytes / 4;
  for (int i = 0; i < launch.layers; ++i) {
    const LayerPlan& layer = launch.layer[i];
    const int item = static_cast<int>(blockIdx.x) - layer.first_block;
    if (item < 0 || item >= layer.blocks) continue;
    const float factor = *layer.sigma;
    if (layer.dense)
      write_dense_gradient(layer, item, factor, memory);
    else if (kWide && layer.wide)
      write_gemm_gradient(layer, item, factor, memory);
    else
      write_conv_gradient(layer, item, factor, memory);
  }
}

GLORO_FAST_KERNEL(kBlocksPerMultiprocessor) power_iteration_gradient_kernel(GLORO_FAST_PARAMETER(Launch) launch) {
  write_gradients<false>(launch);
}

GLORO_FAST_KERNEL(1) power_iteration_wide_gradient_kernel(GLORO_FAST_PARAMETER(Launch) launch) {
  write_gradients<true>(launch);
}

}  // namespace gloro_fast::cuda
