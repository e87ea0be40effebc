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

// Drops what another candidate is at least as good as in every respect.
void drop_the_worse(std::vector<Candidate>& candidates);

int pixels_of_a_tile(const Tiling& tiling);
int channels_of_a_tile(const Tiling& tiling);

// Most taps that an item of a product has, and the size of the plane that it stages for a channel of the input.
int most_taps(const AxisPlan& axis, bool transposed);
int window_extent(const AxisPlan& axis, bool transposed, int outputs);

// The picture that a product gives: one phase of it.
int phase_size(const AxisPlan& axis, bool transposed);
// Cuts it into tiles of at most `capacity` pixels and `columns` columns.
void set_tiles(Tiling& tiling, int height, int width, int columns, int capacity);
// Sets a staged plane, as many rows and columns as the window has of one position mod step. Returns all its words.
int set_plane(Tiling& tiling, const LayerPlan& layer, bool transposed);

std::vector<Candidate> conv_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost);
std::vector<Candidate> dense_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost);
// On tensor cores, for a block that has a multiprocessor to itself: power_iteration_gemm_tiling.cpp.
bool can_be_wide(const LayerPlan& layer);
std::vector<Candidate> gemm_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost);
std::vector<Candidate> gemm_gradient_candidates(const LayerPlan& layer, int budget_words, const Cost& cost);
// Bytes of the packed weights, two packed iterates and u.
int64_t packed_bytes(const LayerPlan& layer);
std::vector<Candidate> gradient_candidates(const LayerPlan& layer, int budget_words, const Cost& cost);

}  // namespace gloro_fast::cuda
