// Turns the layers of a network and the properties of a card into launches: which blocks work on which layer, and how
// every product is cut into tiles. Host code without CUDA's headers, so that it runs and is tested anywhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../common/power_iteration_layer.h"
#include "power_iteration_cost.h"
#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

// On which cores convolutions that can run on tensor cores do: where it is predicted to be faster, or as tests want it.
enum class Cores { fastest, plain, tensor };

struct Card {
  int multiprocessors = 0;
  int shared_bytes = 0;  // of a multiprocessor
  int shared_bytes_per_block = 0;
  int reserved_bytes_per_block = 0;
  int cooperative = 0;
  int major = 0, minor = 0;
  int blocks_per_multiprocessor = kBlocksPerMultiprocessor;  // that work at once, at most
  Cores cores = Cores::fastest;
};

// Where a layer's working memory lies in the launch's workspace, in bytes.
struct Workplace {
  int64_t spare, squares_v, squares_u;
};

struct Plan {
  Launch launch;  // without pointers
  int blocks = 0;
  int shared_bytes = 0;
  bool wide = false;                  // with layers on tensor cores: a kernel of their own
  int blocks_per_multiprocessor = 0;  // that the plan counts on
  int64_t workspace_bytes = 0;
  std::vector<Workplace> workplaces;  // of the layers in the order of `launch`
  std::vector<int> order;             // and which of the layers that were given they are
  double microseconds = 0;            // predicted, with kTypicalIterations
};

inline constexpr int kTypicalIterations = 5;  // with which plans are compared; they hold for any number

// The card with `multiprocessors` of its own at most, or with all of them where that is 0.
Card share_of(Card card, int64_t multiprocessors);

// Plans the power iteration; every launch has at most as many blocks as the card is said to hold at once
// (power_iteration_residency.h asks the driver), and its layers come in any order. Throws std::runtime_error, with a
// reason in one line, where a layer does not fit.
std::vector<Plan> plan_power_iteration(const std::vector<cpu::LinearLayer>& layers, const Card& card);

// The fewest multiprocessors with which the power iteration is predicted to take at most 1.1 times as long as on all:
// small nets wait for barriers and memory, and leave the others to whatever runs beside them.
int enough_multiprocessors(const std::vector<cpu::LinearLayer>& layers, const Card& card);

// Plans the gradient; its blocks do not wait for each other, and there may be more of them than the card holds.
std::vector<Plan> plan_gradient(const std::vector<cpu::LinearLayer>& layers, const Card& card);

// Points every layer of the plan to its part of the workspace.
void place_workspace(Plan& plan, char* workspace);

// The layer without tiles or blocks. Throws std::runtime_error where the GPU's kernels do not take it.
LayerPlan plan_layer(const cpu::LinearLayer& layer);

// What the model gives for `iterations` steps of a plan. Throws std::runtime_error for one of a gradient, which has
// none.
double predict_microseconds(const Plan& plan, int iterations, const Card& card);

}  // namespace gloro_fast::cuda
