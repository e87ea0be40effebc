// What a product costs: cycles of one multiprocessor, by a model with which the planner chooses.
//
// A small net waits: for round trips to the L2 cache, one for each batch of loads, and two a product between blocks.
// The model counts them, the instructions of the inner loop and of staging, and a few constants, which were fitted to
// an H100 (benchmarks/roofline/power_iteration_model.py shows how well).
#pragma once

#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

// What a kernel does, from its source and machine code: today's, where nothing else is said.
struct KernelShape {
  // Windows and weights of a convolution are copied behind the threads' backs, all at once; else in batches of so many.
  bool copies = true;
  int window_loads = 0, weight_loads = 0;
  // Loads that a thread has under way at once, of a dense layer's vector and of 16 bytes of its rows and of its
  // columns.
  int vector_loads = kVectorLoads, row_loads = kRowLoads, column_loads = kColumnLoads;
  bool leftovers_at_once = true;  // loads left over after whole batches are a batch too; else each waits for the last
  int rows = kDenseRows;          // of a dense layer that a warp takes at once
  double trips = 2;               // to the L2 cache, from the last store of a product to the first load of the next
  double phase = 1200;            // cycles beside them, for sums over a block and the norm
  bool alone_waits = false;       // a block that has a layer for itself waits like others
  bool finds_ahead = true;        // a block's first item is found while it waits for others
  double term = 8;                // instructions of a term beside its multiply-adds and two for each pixel of a thread
  double join = 700, joins = 0;  // to add the sums of warps that share them: once, and for each halving of their number
};

// The kernel that the H100's figures are of.
constexpr KernelShape measured_kernel() {
  KernelShape kernel;
  kernel.copies = kernel.leftovers_at_once = kernel.finds_ahead = false;
  kernel.alone_waits = true;
  kernel.window_loads = 4, kernel.weight_loads = 2;
  kernel.vector_loads = 4, kernel.row_loads = 4, kernel.column_loads = 2, kernel.rows = 2;
  kernel.trips = 3, kernel.phase = 2400;
  kernel.term = 14;
  kernel.join = 0, kernel.joins = 430;
  return kernel;
}

struct Cost {
  double gigahertz = 1.755;
  double fma_lanes = 128;     // per multiprocessor
  double tensor_fmas = 1024;  // the same on tensor cores, TF32
  int sharing = 1;            // blocks that share a multiprocessor
  KernelShape kernel;

  static constexpr double kTrip = 1210;    // a batch of loads from the L2 cache
  static constexpr double kItem = 970;     // places, sums of squares, writing
  static constexpr double kFind = 810;     // which part of a convolution an item is
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
double find_cycles(const LayerPlan& layer, int rounds, const Cost& cost);
// Once a product: what all blocks of a layer wait for.
double meet_cycles(int blocks, const Cost& cost);
// On tensor cores, for a block that has a multiprocessor to itself; and once a layer, to pack and to unpack its vectors
// and weights: power_iteration_gemm_tiling.cpp.
double gemm_item_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost);
double gemm_gradient_item_cycles(const LayerPlan& layer, const Tiling& tiling, const Cost& cost);
double packing_cycles(const LayerPlan& layer);
double gradient_item_cycles(const LayerPlan& layer, const Tiling& tiling, const Cost& cost);

// So many steps of a planned layer.
double layer_cycles(const LayerPlan& layer, int iterations, const Cost& cost);

}  // namespace gloro_fast::cuda
