// The two kernels: power iteration of all layers in one cooperative launch, and all their gradients in another launch.
#pragma once

#include "dialect.cuh"
#include "power_iteration_conv.cuh"
#include "power_iteration_dense.cuh"
#include "power_iteration_gemm.cuh"
#include "power_iteration_gradient.cuh"
#include "power_iteration_pack.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// Where all blocks of a group wait for each other. Blocks of one group go through the same layers in the same order,
// and all blocks of the launch are resident, so that nobody waits for ever.
struct Group {
  unsigned* arrivals;
  unsigned blocks;
  unsigned target = 0;

  GLORO_FAST_DEVICE void barrier() {
    target += blocks;
    __syncthreads();
    if (threadIdx.x == 0) {
      arrive(arrivals);
      while (arrived(arrivals) < target) {
      }
    }
    __syncthreads();
  }
};

// What the products read and write: the caller's vectors, or packed ones.
struct Vectors {
  const float* start;
  float *v, *other, *u;

  GLORO_FAST_DEVICE explicit Vectors(const LayerPlan& layer)
      : start(layer.start), v(layer.v), other(layer.spare), u(layer.u) {
    if (!layer.wide) return;
    const Packed packed(layer);
    start = other = packed.v[1];
    v = packed.v[0];
    u = packed.u;
  }
};

// Norms of what the product before gave, and what the next one reads and writes; for the first warp.
GLORO_FAST_DEVICE void prepare_step(const LayerPlan& layer, int step, Board& board) {
  const bool transposed = step % 2 != 0;
  const double norm = step == 0    ? 0
                      : transposed ? read_norm(layer.squares_u, layer.forward.items)
                                   : read_norm(layer.squares_v, layer.transposed.items);
  if (threadIdx.x != 0) return;
  const Vectors vectors(layer);
  if (step == 0) {
    board.right = vectors.start;
    board.right_scale = {};
    board.next = vectors.v;
  } else if (!transposed && usable(norm)) {  // otherwise the iterate is kept
    board.right = board.next;
    board.right_scale = unit_scale(norm);
    board.next = board.next == vectors.v ? vectors.other : vectors.v;
  }
  const Tiling& tiling = transposed ? layer.transposed : layer.forward;
  board.step.in = transposed ? vectors.u : board.right;
  board.step.scale = transposed ? unit_scale(norm) : board.right_scale;
  board.step.out = transposed ? board.next : vectors.u;
  board.step.squares = transposed ? layer.squares_v : layer.squares_u;
  board.step.transposed = transposed;
  board.step.stage = !tiling.resident || step < 2;
}

// Writes sigma, the iterate and u, both divided by their norms.
GLORO_FAST_DEVICE void finish_layer(const LayerPlan& layer, Board& board) {
  const int block = static_cast<int>(blockIdx.x) - layer.first_block;
  if (threadIdx.x < 32) {
    const double norm = read_norm(layer.squares_u, layer.forward.items);
    if (threadIdx.x == 0) board.norm = norm;
  }
  __syncthreads();
  const double infinity = static_cast<double>(__int_as_float(0x7f800000));
  if (block == 0 && threadIdx.x == 0)
    *layer.sigma = board.norm == infinity ? __int_as_float(0x7fc00000) : static_cast<float>(board.norm);
  const AxisPlan &height = layer.height, &width = layer.width;
  const int inputs = layer.groups * layer.group_inputs * height.input * width.input;
  const int outputs = layer.groups * layer.group_outputs * height.output * width.output;
  const int first = block * kThreads + static_cast<int>(threadIdx.x), step = layer.blocks * kThreads;
  const Scale left_scale = unit_scale(board.norm);
  if (layer.wide) {
    unpack_vector(layer.v, board.right, layer.group_inputs, layer.groups, height.input * width.input,
                  board.right_scale, first, step);
    unpack_vector(layer.u, Packed(layer).u, layer.group_outputs, layer.groups, height.output * width.output,
                  left_scale, first, step);
    return;
  }
  for (int i = first; i < inputs; i += step) layer.v[i] = board.right[i] * board.right_scale;
  for (int i = first; i < outputs; i += step) layer.u[i] = layer.u[i] * left_scale;
}

GLORO_FAST_KERNEL(kBlocksPerMultiprocessor) power_iteration_kernel(GLORO_FAST_PARAMETER(Launch) launch) {
  GLORO_FAST_SHARED_MEMORY(shared);
  Board& board = *reinterpret_cast<Board*>(shared);
  float* const memory = reinterpret_cast<float*>(shared) + kReservedBytes / 4;
  if (blockIdx.x == 0)
    for (int i = static_cast<int>(threadIdx.x); i < launch.groups; i += kThreads) launch.arrivals[i] = 0;
  grid_barrier();
  Group group{nullptr, 0};
  for (int i = 0; i < launch.layers; ++i) {
    const LayerPlan& layer = launch.layer[i];
    const int block = static_cast<int>(blockIdx.x) - layer.first_block;
    if (block < 0 || block >= layer.blocks) continue;
    if (group.arrivals != layer.arrivals) group = Group{layer.arrivals, static_cast<unsigned>(layer.blocks)};
    if (layer.wide) {
      pack_layer(layer);
      group.barrier();
    }
    for (int step = 0; step <= 2 * launch.iterations; ++step) {
      if (threadIdx.x < 32) prepare_step(layer, step, board);
      __syncthreads();
      if (layer.dense)
        apply_dense(layer, board, memory);
      else if (layer.wide)
        apply_gemm(layer, step % 2 != 0 ? layer.transposed : layer.forward, board, memory,
                   step == 2 * launch.iterations);
      else
        apply_conv(layer, step % 2 != 0 ? layer.transposed : layer.forward, board, memory);
      group.barrier();
    }
    finish_layer(layer, board);
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
