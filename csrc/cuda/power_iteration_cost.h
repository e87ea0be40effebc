// What a product costs: cycles of one multiprocessor, by a model with which the planner chooses.
//
// A small net waits: for round trips to the L2 cache, one for each batch of loads and two or three a product between
// blocks. The model counts them, the instructions of the inner loop and of staging, and a few constants, which were
// fitted to an H100 (benchmarks/roofline/power_iteration.py shows how well).
#pragma once

#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

// What kernels do, from their source and machine code.
struct KernelShape {
  // Windows and weights of a convolution are copied behind the threads' backs, all at once; else in batches.
  bool copies;
  // Loads that a thread has under way at once, of a window (without copies), of weights, of a dense layer's vector, of
  // 16 bytes of its rows and of its columns; and whether those left over after whole batches are a batch too, else each
  // of them waits for the one before.
  int window_loads, weight_loads, vector_loads, row_loads, column_loads;
  bool leftovers_at_once;
  int rows;            // of a dense layer that a warp takes at once
  double trips;        // to the L2 cache, from the last store of a product to the first load of the next
  double phase;        // cycles beside them, for sums over a block and the norm
  bool alone_waits;    // a block that has a layer for itself waits like others
  bool finds_ahead;    // a block's first item is found while it waits for others
  double term;         // instructions of a term beside its multiply-adds and two for each pixel of a thread
  double join, joins;  // to add the sums of warps that share them: once, and for each halving of their number
};
inline constexpr KernelShape kKernel = {true, 0,    0,     kVectorLoads, kRowLoads, kColumnLoads, true, kDenseRows,
                                        2,    1200, false, true,         8,         700,          0};
// The kernel that the H100's figures are of.
inline constexpr KernelShape kMeasuredKernel = {false, 4, 2, 4, 4, 2, false, 2, 3, 2400, true, false, 14, 0, 430};

struct Cost {
  double gigahertz = 1.755;
  double fma_lanes = 128;     // per multiprocessor
  double tensor_fmas = 1024;  // the same on tensor cores, TF32
  int sharing = 1;         // blocks that share a multiprocessor
  KernelShape kernel = kKernel;

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
