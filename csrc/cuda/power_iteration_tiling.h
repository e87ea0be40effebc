// All sensible ways to cut one product of a layer into tiles, each with its price.
#pragma once

#include <cstdint>
#include <vector>

#include "power_iteration_cost.h"
#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

struct Candidate {
  Tiling tiling;  // offsets are not set
  int table_words = 0;
  int fixed_words = 0;  // tables and weights
  int window_words = 0;
  bool whole = false;  // all input channels are staged at once
  double cycles = 0;   // of an item, but for
  double staging = 0;  // tables and weights
};

int pixels_of_a_tile(const Tiling& tiling);
int channels_of_a_tile(const Tiling& tiling);

// Most taps that an item of a product has, and the size of the plane that it stages for a channel of the input.
int most_taps(const AxisPlan& axis, bool transposed);
int window_extent(const AxisPlan& axis, bool transposed, int outputs);

std::vector<Candidate> conv_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost);
std::vector<Candidate> dense_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost);
std::vector<Candidate> gradient_candidates(const LayerPlan& layer, int budget_words, const Cost& cost);

}  // namespace gloro_fast::cuda
