// Where the blocks of a layer wait for each other, and learn the norm of what they have written.
#pragma once

#include "dialect.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// A block publishes its sum of squares with the phase in the lowest two bits, so that the word that the others need is
// the flag that they wait for: one round trip to the L2 cache, where a counter and the sums behind it take two.
inline constexpr uint64_t kPhaseBits = 3;

// Clears what the blocks of a launch publish. Every block its own words; a grid barrier must follow.
GLORO_FAST_DEVICE void clear_squares(const LayerPlan& layer) {
  const int block = static_cast<int>(blockIdx.x) - layer.first_block;
  layer.squares_u[block] = layer.squares_v[block] = 0;
}

// Waits until all blocks of the layer have written what `step` gives. Returns, to the first warp, the sum of its
// squares in a fixed order, of which `square` is this thread's part. A block is never two phases ahead of another, so
// that two phases are told apart and a word is read before it is written again. All blocks of the launch are resident,
// and those of a layer go through the same layers, so that nobody waits for ever.
GLORO_FAST_DEVICE double meet(const LayerPlan& layer, int step, double square, Board& board) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  square = sum_over_warp(square);
  if (lane == 0) board.warp[warp] = square;
  __syncthreads();
  if (warp != 0) return 0;
  const double mine = sum_over_warp(lane < kWarps ? board.warp[lane] : 0.0);
  if (layer.blocks == 1) return mine;
  uint64_t* const words = step % 2 != 0 ? layer.squares_v : layer.squares_u;
  const uint64_t phase = 1 + step / 2 % 2;
  if (lane == 0) {
    const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(mine));
    publish(words + (static_cast<int>(blockIdx.x) - layer.first_block), (bits & ~kPhaseBits) | phase);
  }
  double sum = 0;
  for (int block = lane; block < layer.blocks; block += 32) {
    uint64_t word = published(words + block);
    while ((word & kPhaseBits) != phase) word = published(words + block);
    sum += __longlong_as_double(static_cast<long long>(word & ~kPhaseBits));
  }
  return sum_over_warp(sum);
}

}  // namespace gloro_fast::cuda
