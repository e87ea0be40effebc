// What a product costs: cycles of one multiprocessor, by a model with which the planner chooses.
//
// A small net waits: for round trips to the L2 cache, one for each batch of loads, and two a product between blocks.
// The model counts them, the instructions of the inner loop and of staging, and a few constants, which were fitted to
// what an H100 measured of earlier kernels (benchmarks/roofline/power_iteration_model.py has the figures).
#pragma once

#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

struct Cost {
  double gigahertz = 1.755;
  double fma_lanes = 128;     // per multiprocessor
  double tensor_fmas = 1024;  // the same on tensor cores, TF32
  int sharing = 1;            // blocks that share a multiprocessor

  static constexpr double kTrip = 1210;    // a batch of loads from the L2 cache
  static constexpr double kTrips = 2;      // of these, from a product's last store to the first load of the next
  static constexpr double kPhase = 1200;   // beside them, for sums over a block and the norm
  static constexpr double kItem = 970;     // places, sums of squares, writing
  static constexpr double kFind = 810;     // which part of a convolution an item is
  static constexpr double kTerm = 8;       // instructions beside its multiply-adds and two for each pixel of a thread
  static constexpr double kJoin = 700;     // to add the sums of warps that share them
  static constexpr double kStall = 22;     // a term's wait for shared memory, where a block has a multiprocessor alone
  static constexpr double kLaunch = 9900;  // once: the launch, the barrier of the grid, the division by the norms
  // Instructions to stage a value of a window, a weight, and 16 bytes of a dense layer's weights.
  static constexpr double kWindowValue = 10.4, kWeightValue = 14, kDensePack = 8;
  static constexpr double kBytesPerCycle = 40;  // of a multiprocessor from the L2 cache

  double microseconds(double cycles) const { return cycles / (gigahertz * 1e3); }
};

// How threads best lie in the positions of a window.
int best_window_lanes(int positions, int channels, const Cost& cost);

// For the items of a product: tables and weights; and everything else.
double staging_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost);
double item_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost);
// Of a block with several items, those after the first must be found.
double find_cycles(const LayerPlan& layer, int rounds);
// Once a product: what all blocks of a layer wait for.
double meet_cycles(int blocks);
// On tensor cores, for a block that has a multiprocessor to itself; and once a layer, to pack and to unpack its vectors
// and weights: power_iteration_gemm_tiling.cpp.
double gemm_item_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost);
double gemm_gradient_item_cycles(const LayerPlan& layer, const Tiling& tiling, const Cost& cost);
double packing_cycles(const LayerPlan& layer);
double gradient_item_cycles(const LayerPlan& layer, const Tiling& tiling, const Cost& cost);

// So many steps of a planned layer.
double layer_cycles(const LayerPlan& layer, int iterations, const Cost& cost);

}  // namespace gloro_fast::cuda
