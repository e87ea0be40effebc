#include "power_iteration_cost.h"

#include <algorithm>

#include "power_iteration_tiling.h"

namespace gloro_fast::cuda {

namespace {

int ceil_div(int value, int divisor) {
  return (value + divisor - 1) / divisor;
}

// An instruction of every warp of a block, on the four schedulers that it may share.
double issue(double instructions, const Cost& cost) {
  return instructions * kWarps / 4 * cost.sharing;
}

double loop_cycles(double terms, const Tiling& tiling, const Cost& cost) {
  const double sums = kThreadChannels * tiling.thread_pixels;
  const double one = (sums * 128 / cost.fma_lanes + 2 * tiling.thread_pixels + Cost::kTerm) * kWarps / 4;
  return terms * std::max(one * cost.sharing, one + Cost::kStall);
}

double join_cycles(int log_split, const Cost& cost) {
  return log_split > 0 ? Cost::kJoin * cost.sharing : 0;
}

int in_channels(const LayerPlan& layer, bool transposed) {
  return transposed ? layer.group_outputs : layer.group_inputs;
}

int taps(const LayerPlan& layer, bool transposed) {
  return most_taps(layer.height, transposed) * most_taps(layer.width, transposed);
}

int positions(const LayerPlan& layer, const Tiling& tiling, bool transposed) {
  return window_extent(layer.height, transposed, tiling.tile_height) *
         window_extent(layer.width, transposed, tiling.tile_width);
}

double weight_bytes(const LayerPlan& layer) {
  return layer.type == WeightType::float32 ? 4 : 2;
}

double window_cycles(int positions, int channels, int log_lanes, const Cost& cost) {
  constexpr double kPosition = 100;
  const int loads = ceil_div(channels, kThreads >> log_lanes);
  return Cost::kTrip + ceil_div(positions, 1 << log_lanes) * (kPosition + issue(loads * Cost::kWindowValue, cost));
}

double dense_item_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost) {
  const int unit = static_cast<int>(16 / weight_bytes(layer));
  const int loads = transposed ? ceil_div(layer.group_outputs, kThreads / (kDenseStripBytes / 16))
                               : ceil_div(layer.group_inputs, 32 * unit) * kDenseRows;
  const int at_once = transposed ? kColumnLoads : kRowLoads;
  const double bytes = weight_bytes(layer) * layer.group_outputs * layer.group_inputs / tiling.items;
  return Cost::kItem + std::max(ceil_div(loads, at_once) * Cost::kTrip + issue(loads * Cost::kDensePack, cost),
                                bytes / Cost::kBytesPerCycle * cost.sharing);
}

}  // namespace

int best_window_lanes(int positions, int channels, const Cost& cost) {
  int best = 8;
  static_assert(1 << 8 == kThreads);
  for (int lanes = best - 1; lanes >= 5; --lanes)
    if (window_cycles(positions, channels, lanes, cost) < window_cycles(positions, channels, best, cost)) best = lanes;
  return best;
}

double staging_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost) {
  if (layer.dense || layer.wide) return 0;
  constexpr double kTerm = 150;  // of the tables
  const int chunks = ceil_div(in_channels(layer, transposed), tiling.chunk);
  const int terms = tiling.chunk * taps(layer, transposed);
  const int loads = ceil_div(terms * channels_of_a_tile(tiling), kThreads);
  return ceil_div(terms, kThreads) * kTerm + chunks * issue(loads * Cost::kWeightValue, cost);
}

double item_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost) {
  if (layer.dense) return dense_item_cycles(layer, tiling, transposed, cost);
  if (layer.wide) return gemm_item_cycles(layer, tiling, transposed, cost);
  const int chunks = ceil_div(in_channels(layer, transposed), tiling.chunk);
  const int terms = ceil_div(tiling.chunk * taps(layer, transposed), 1 << tiling.log_split);
  const double window =
      window_cycles(positions(layer, tiling, transposed), tiling.chunk, tiling.log_window_lanes, cost);
  return Cost::kItem + chunks * (window + loop_cycles(terms, tiling, cost)) + join_cycles(tiling.log_split, cost);
}

double find_cycles(const LayerPlan& layer, int rounds) {
  return layer.dense ? 0 : (rounds - 1) * Cost::kFind;  // the first is found while the block waits for others
}

double meet_cycles(int blocks) {
  const double trips = blocks > 1 ? Cost::kTrips : 0;
  return Cost::kPhase + (trips + (blocks - 1) / 32) * Cost::kTrip;
}

double gradient_item_cycles(const LayerPlan& layer, const Tiling& tiling, const Cost& cost) {
  constexpr double kValue = 40;  // instructions to stage a value of u
  const int terms = tiling.tile_height * tiling.tile_width;
  const int loads = ceil_div(terms * channels_of_a_tile(tiling), kThreads);
  const double staging = issue(loads * kValue, cost) +
                         window_cycles(positions(layer, tiling, false), tiling.chunk, tiling.log_window_lanes, cost);
  return Cost::kItem + Cost::kFind + join_cycles(tiling.log_split, cost) +
         tiling.tiles_y * tiling.tiles_x *
             (staging + loop_cycles(ceil_div(terms, 1 << tiling.log_split), tiling, cost));
}

double layer_cycles(const LayerPlan& layer, int iterations, const Cost& cost) {
  double cycles = layer.wide ? packing_cycles(layer) : 0;
  for (const bool transposed : {false, true}) {
    const Tiling& tiling = transposed ? layer.transposed : layer.forward;
    const int products = iterations + (transposed ? 0 : 1), rounds = ceil_div(tiling.items, layer.blocks);
    double vector = 0;
    if (layer.dense) vector = ceil_div(in_channels(layer, transposed), kThreads * kVectorLoads) * Cost::kTrip;
    const double staging = rounds * staging_cycles(layer, tiling, transposed, cost);
    cycles += products * (meet_cycles(layer.blocks) + vector + find_cycles(layer, rounds) +
                          rounds * item_cycles(layer, tiling, transposed, cost)) +
              staging * (tiling.resident ? std::min(products, 1) : products);
  }
  return cycles;
}

}  // namespace gloro_fast::cuda
