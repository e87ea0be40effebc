#include "power_iteration_planner.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "power_iteration_tiling.h"

namespace gloro_fast::cuda {

namespace {

using cpu::Axis;
using cpu::Element;
using cpu::LinearLayer;

constexpr int kTypicalIterations = 5;  // which the model counts with; plans hold for any number
// What `enough` is: so many times as long as on all multiprocessors.
constexpr double kEnough = 1.1;
constexpr double kNever = std::numeric_limits<double>::infinity();

[[noreturn]] void refuse(const std::string& reason) {
  throw std::runtime_error("power_iteration: " + reason);
}

int32_t narrow(int64_t value) {
  if (value > std::numeric_limits<int32_t>::max()) refuse("a layer of 2^31 elements or more does not run on the GPU");
  return static_cast<int32_t>(value);
}

AxisPlan plan_axis(const Axis& axis) {
  const int64_t common = std::gcd(axis.stride, axis.dilation);
  return {narrow(axis.input),    narrow(axis.output),  narrow(axis.kernel),          narrow(axis.stride),
          narrow(axis.dilation), narrow(axis.padding), narrow(axis.stride / common), narrow(axis.dilation / common)};
}

WeightType plan_type(Element element) {
  switch (element) {
    case Element::float32:
      return WeightType::float32;
    case Element::bfloat16:
      return WeightType::bfloat16;
    case Element::float16:
      return WeightType::float16;
    case Element::float64:
      break;
  }
  refuse("float64 weights do not run on the GPU's kernels");
}

LayerPlan plan_layer(const LinearLayer& layer) {
  LayerPlan plan{};
  plan.type = plan_type(layer.weight.element);
  plan.dense = layer.dense;
  plan.groups = narrow(layer.groups);
  plan.group_outputs = narrow(layer.group_outputs());
  plan.group_inputs = narrow(layer.group_inputs());
  plan.height = plan_axis(layer.height);
  plan.width = plan_axis(layer.width);
  narrow(layer.input_size());
  narrow(layer.output_size());
  narrow(layer.outputs * layer.group_inputs() * layer.taps());
  return plan;
}

int budget_words(const Card& card, int blocks_per_multiprocessor = kBlocksPerMultiprocessor) {
  const int shared = card.shared_bytes / blocks_per_multiprocessor - card.reserved_bytes_per_block;
  return (std::min(shared, card.shared_bytes_per_block) - kReservedBytes) / 16 * 4;
}

Cost cost_of(const Card& card) {
  Cost cost;
  if (card.major == 8 && card.minor == 0) cost.fma_lanes = 64, cost.tensor_fmas = 512;
  if (card.major == 9 || card.major == 10) cost.tensor_fmas = 1024;
  return cost;
}

int64_t input_size(const LayerPlan& layer) {
  return int64_t{layer.groups} * layer.group_inputs * layer.height.input * layer.width.input;
}

int64_t output_size(const LayerPlan& layer) {
  return int64_t{layer.groups} * layer.group_outputs * layer.height.output * layer.width.output;
}

// Whether tensor cores are tried. Where vectors are shorter, what they cut off of the factors does not average out:
// sigma was off by up to 9e-5 with 150 elements.
bool may_be_wide(const LayerPlan& layer, const Card& card) {
  constexpr int64_t kShortest = 1024;
  if (card.major < 8 || card.cores == Cores::plain || !can_be_wide(layer)) return false;
  return card.cores == Cores::tensor || std::min(input_size(layer), output_size(layer)) >= kShortest;
}

bool may_be_wide(const std::vector<LayerPlan>& layers, const Card& card) {
  return std::any_of(layers.begin(), layers.end(), [&](const LayerPlan& layer) { return may_be_wide(layer, card); });
}

// Lays tables, weights and window out one after the other.
Tiling lay_out(const Candidate& candidate, int fixed, int window) {
  Tiling tiling = candidate.tiling;
  tiling.tables = fixed;
  tiling.weights = fixed + candidate.table_words;
  tiling.window = window;
  return tiling;
}

struct Choice {
  Tiling forward, transposed;
  int words = 0;
  double cycles = kNever;
  bool wide = false;
};

// The ways to work on one layer, and the best of them for a number of blocks.
class Choices {
 public:
  Choices(const LayerPlan& layer, int budget, const Cost& cost, int most_blocks, bool wide,
          bool only_wide)
      : dense_(layer.dense), budget_(budget), packed_bytes_(static_cast<double>(packed_bytes(layer))) {
    const auto candidates = dense_ ? dense_candidates : conv_candidates;
    forward_ = candidates(layer, false, budget, cost);
    transposed_ = candidates(layer, true, budget, cost);
    if (forward_.empty() || transposed_.empty())
      refuse("a layer's window or kernel is larger than the shared memory of this GPU");
    if (wide) {
      wide_forward_ = gemm_candidates(layer, false, budget, cost);
      wide_transposed_ = gemm_candidates(layer, true, budget, cost);
      only_wide_ = only_wide;
    }
    int most_items = 0;
    for (const auto* list : {&forward_, &transposed_, &wide_forward_, &wide_transposed_})
      for (const Candidate& candidate : *list) most_items = std::max(most_items, candidate.tiling.items);
    cycles_.assign(static_cast<size_t>(std::min(most_blocks, most_items)), -1);
  }

  // The fewest blocks that need no more than `cycles`; 0 where no number does. More blocks can take longer, since
  // they wait for each other.
  int fewest_blocks(double cycles) {
    for (int blocks = 1; blocks <= static_cast<int>(cycles_.size()); ++blocks)
      if (cycles_of(blocks) <= cycles) return blocks;
    return 0;
  }

  double cycles_of(int blocks) {
    double& known = cycles_[static_cast<size_t>(blocks - 1)];
    if (known < 0) known = choose(blocks).cycles;
    return known;
  }

  Choice choose(int blocks) const {
    Choice best = choose_apart(forward_, transposed_, blocks);
    if (!wide_forward_.empty() && !wide_transposed_.empty()) {
      Choice wide = choose_apart(wide_forward_, wide_transposed_, blocks);
      wide.wide = true;
      wide.cycles += Cost::kBarrier + 2 * packed_bytes_ / (blocks * Cost::kBytesPerCycle);  // to pack and to unpack
      if (only_wide_) best.cycles = kNever;
      if (wide.cycles < best.cycles) best = wide;
    }
    if (!dense_ && !only_wide_) {
      const Choice resident = choose_resident(blocks);
      if (resident.cycles < best.cycles) best = resident;
    }
    best.cycles += (2 * kTypicalIterations + 1) * (blocks > 1 ? Cost::kBarrier : Cost::kLatency);
    return best;
  }

 private:
  static double rounds(const Candidate& candidate, int blocks) {
    return (candidate.tiling.items + blocks - 1) / blocks;
  }

  // Each product for itself, all of shared memory its own.
  Choice choose_apart(const std::vector<Candidate>& forwards, const std::vector<Candidate>& transposeds,
                      int blocks) const {
    const auto best = [&](const std::vector<Candidate>& list) {
      return *std::min_element(list.begin(), list.end(), [&](const Candidate& a, const Candidate& b) {
        return rounds(a, blocks) * a.cycles < rounds(b, blocks) * b.cycles;
      });
    };
    const Candidate forward = best(forwards), transposed = best(transposeds);
    Choice choice;
    choice.forward = dense_ ? forward.tiling : lay_out(forward, 0, forward.fixed_words);
    choice.transposed = dense_ ? transposed.tiling : lay_out(transposed, 0, transposed.fixed_words);
    choice.words =
        std::max(forward.fixed_words + forward.window_words, transposed.fixed_words + transposed.window_words);
    choice.cycles = (kTypicalIterations + 1) * rounds(forward, blocks) * forward.cycles +
                    kTypicalIterations * rounds(transposed, blocks) * transposed.cycles;
    return choice;
  }

  // Weights of both products stay in shared memory, where each block has one item.
  Choice choose_resident(int blocks) const {
    Choice choice;
    for (const Candidate& forward : forward_) {
      if (!forward.whole || forward.tiling.items > blocks) continue;
      for (const Candidate& transposed : transposed_) {
        if (!transposed.whole || transposed.tiling.items > blocks) continue;
        const int window = forward.fixed_words + transposed.fixed_words;
        const int words = window + std::max(forward.window_words, transposed.window_words);
        const double cycles = (kTypicalIterations + 1) * (forward.cycles - forward.staging) + forward.staging +
                              kTypicalIterations * (transposed.cycles - transposed.staging) + transposed.staging;
        if (words > budget_ || cycles >= choice.cycles) continue;
        choice = {lay_out(forward, 0, window), lay_out(transposed, forward.fixed_words, window), words, cycles};
        choice.forward.resident = choice.transposed.resident = 1;
      }
    }
    return choice;
  }

  bool dense_, only_wide_ = false;
  int budget_;
  double packed_bytes_;
  std::vector<Candidate> forward_, transposed_, wide_forward_, wide_transposed_;
  std::vector<double> cycles_;  // by number of blocks, less one; negative where not yet known
};

// Blocks of each layer, and layers that share a single block.
struct Division {
  std::vector<int> blocks;             // 0 where a layer shares one
  std::vector<std::vector<int>> bins;  // of layers that go through one block after the other
  int total = 0;
};

// Divides blocks so that none needs more than `cycles`; layers for which one block is enough share blocks.
Division divide(std::vector<Choices>& choices, double cycles) {
  Division division;
  std::vector<std::pair<double, int>> small;
  for (size_t i = 0; i < choices.size(); ++i) {
    const int blocks = choices[i].fewest_blocks(cycles);
    if (blocks == 0) {
      division.total = std::numeric_limits<int>::max();
      return division;
    }
    division.blocks.push_back(blocks > 1 ? blocks : 0);
    division.total += blocks > 1 ? blocks : 0;
    if (blocks == 1) small.emplace_back(choices[i].cycles_of(1), static_cast<int>(i));
  }
  std::sort(small.begin(), small.end(), [](const auto& a, const auto& b) { return a > b; });
  std::vector<double> filled;
  for (const auto& [needed, layer] : small) {
    size_t bin = 0;
    while (bin < filled.size() && filled[bin] + needed > cycles) ++bin;
    if (bin == filled.size()) {
      filled.push_back(0);
      division.bins.emplace_back();
    }
    filled[bin] += needed;
    division.bins[bin].push_back(layer);
  }
  division.total += static_cast<int>(filled.size());
  return division;
}

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void measure_workspace(Plan& plan) {
  constexpr int64_t kAlignment = 256;
  int64_t bytes = 0;
  for (int i = 0; i < plan.launch.layers; ++i) {
    const LayerPlan& layer = plan.launch.layer[i];
    Workplace& place = plan.workplaces[static_cast<size_t>(i)];
    place.squares_v = bytes;
    bytes += round_up(8 * int64_t{layer.blocks}, kAlignment);
    place.squares_u = bytes;
    bytes += round_up(8 * int64_t{layer.blocks}, kAlignment);
    place.spare = bytes;
    bytes += round_up(layer.wide ? packed_bytes(layer) : 4 * input_size(layer), kAlignment);
  }
  plan.workspace_bytes = bytes;
}

// The ways to work on every layer, and the least time for which the card has blocks enough.
struct Fastest {
  std::vector<Choices> choices;
  double cycles = 0;
  int blocks_per_multiprocessor = 0;
};

Fastest find_fastest(const std::vector<LayerPlan>& layers, const Card& card, bool wide) {
  Fastest fastest;
  fastest.blocks_per_multiprocessor = wide ? 1 : card.blocks_per_multiprocessor;
  const int most_blocks = card.multiprocessors * fastest.blocks_per_multiprocessor;
  const int budget = wide ? budget_words(card, 1) : budget_words(card);
  double low = 0, high = 0;
  for (const LayerPlan& layer : layers) {
    fastest.choices.emplace_back(layer, budget, cost_of(card), most_blocks,
                                 wide && may_be_wide(layer, card), card.cores == Cores::tensor);
    high += fastest.choices.back().cycles_of(1);
  }
  // One block for all takes `high`.
  for (int round = 0; round < 40 && high - low > 1e-3 * high; ++round) {
    const double middle = (low + high) / 2;
    (divide(fastest.choices, middle).total <= most_blocks ? high : low) = middle;
  }
  fastest.cycles = high;
  return fastest;
}

// With all layers on the old path, or with wide ones on tensor cores, where each block has a multiprocessor to itself.
Fastest find_fastest(const std::vector<LayerPlan>& layers, const Card& card) {
  Fastest narrow = find_fastest(layers, card, false);
  if (!may_be_wide(layers, card)) return narrow;
  Fastest wide = find_fastest(layers, card, true);
  return wide.cycles < narrow.cycles || card.cores == Cores::tensor ? wide : narrow;
}

Plan plan_launch(const std::vector<LayerPlan>& layers, int first_index, const Card& card) {
  Fastest fastest = find_fastest(layers, card);
  std::vector<Choices>& choices = fastest.choices;
  const Division division = divide(choices, fastest.cycles);

  Plan plan;
  plan.cycles = fastest.cycles;
  plan.blocks_per_multiprocessor = fastest.blocks_per_multiprocessor;
  int words = 0;
  const auto add = [&](int index, int blocks) {
    LayerPlan layer = layers[static_cast<size_t>(index)];
    const Choice choice = choices[static_cast<size_t>(index)].choose(blocks);
    layer.forward = choice.forward, layer.transposed = choice.transposed;
    layer.wide = choice.wide;
    plan.wide = plan.wide || choice.wide;
    layer.first_block = plan.blocks, layer.blocks = blocks;
    words = std::max(words, choice.words);
    plan.workplaces.push_back({});
    plan.order.push_back(first_index + index);
    plan.launch.layer[plan.launch.layers++] = layer;
  };
  plan.launch = {};
  for (size_t i = 0; i < layers.size(); ++i) {
    if (division.blocks[i] == 0) continue;
    add(static_cast<int>(i), division.blocks[i]);
    plan.blocks += division.blocks[i];
  }
  for (const std::vector<int>& bin : division.bins) {
    for (const int layer : bin) add(layer, 1);
    ++plan.blocks;
  }
  plan.shared_bytes = kReservedBytes + 4 * words;
  measure_workspace(plan);
  return plan;
}

// Rows x strips of a dense gradient.
Tiling dense_gradient_tiling(const LayerPlan& layer) {
  Tiling tiling{};
  const int columns = kThreads * (layer.type == WeightType::float32 ? 4 : 8);
  tiling.entry_tiles = (layer.group_inputs + columns - 1) / columns;
  tiling.items = tiling.entry_tiles * ((layer.group_outputs + kGradientRows - 1) / kGradientRows);
  return tiling;
}

Plan plan_gradient_launch(const std::vector<LayerPlan>& layers, int first_index, const Card& card, bool wide) {
  const double blocks_at_once = card.multiprocessors * (wide ? 1 : kBlocksPerMultiprocessor);
  const int budget = wide ? budget_words(card, 1) : budget_words(card);
  Plan plan;
  plan.launch = {};
  plan.wide = wide;
  int words = kGradientRows;
  for (LayerPlan layer : layers) {
    if (layer.dense) {
      layer.forward = dense_gradient_tiling(layer);
    } else {
      layer.wide = wide && may_be_wide(layer, card);
      std::vector<Candidate> candidates;
      if (layer.wide) candidates = gemm_gradient_candidates(layer, budget, cost_of(card));
      if (candidates.empty()) {
        layer.wide = false;
        candidates = gradient_candidates(layer, budget, cost_of(card));
      }
      if (candidates.empty()) refuse("a layer's window or kernel is larger than the shared memory of this GPU");
      // An item's own time counts, and its share of the card's.
      const auto price = [&](const Candidate& c) { return c.cycles * (1 + c.tiling.items / blocks_at_once); };
      const Candidate best = *std::min_element(candidates.begin(), candidates.end(),
                                               [&](const auto& a, const auto& b) { return price(a) < price(b); });
      layer.forward = lay_out(best, 0, best.fixed_words);
      words = std::max(words, best.fixed_words + best.window_words);
      plan.cycles += best.cycles * best.tiling.items / blocks_at_once;
    }
    layer.first_block = plan.blocks, layer.blocks = layer.forward.items;
    plan.blocks += layer.blocks;
    plan.order.push_back(first_index + plan.launch.layers);
    plan.launch.layer[plan.launch.layers++] = layer;
  }
  plan.shared_bytes = kReservedBytes + 4 * words;
  return plan;
}

Plan plan_gradient_launch(const std::vector<LayerPlan>& layers, int first_index, const Card& card) {
  Plan narrow = plan_gradient_launch(layers, first_index, card, false);
  if (!may_be_wide(layers, card)) return narrow;
  Plan wide = plan_gradient_launch(layers, first_index, card, true);
  return wide.cycles < narrow.cycles || card.cores == Cores::tensor ? wide : narrow;
}

// Calls function with the layers of each launch and the index of the first of them.
template <typename Function>
void for_each_run(const std::vector<LinearLayer>& layers, const Function& function) {
  for (size_t first = 0; first < layers.size(); first += kMostLayers) {
    std::vector<LayerPlan> run;
    for (size_t i = first; i < std::min(layers.size(), first + kMostLayers); ++i) run.push_back(plan_layer(layers[i]));
    function(run, static_cast<int>(first));
  }
}

}  // namespace

Card share_of(Card card, int64_t multiprocessors) {
  if (multiprocessors > 0 && multiprocessors < card.multiprocessors)
    card.multiprocessors = static_cast<int>(multiprocessors);
  return card;
}

std::vector<Plan> plan_power_iteration(const std::vector<LinearLayer>& layers, const Card& card) {
  std::vector<Plan> plans;
  for_each_run(layers, [&](const auto& run, int first) { plans.push_back(plan_launch(run, first, card)); });
  return plans;
}

int enough_multiprocessors(const std::vector<LinearLayer>& layers, const Card& card) {
  int most = 1;
  for_each_run(layers, [&](const auto& run, int) {
    Fastest fastest = find_fastest(run, card);
    const int blocks = divide(fastest.choices, kEnough * fastest.cycles).total;
    most = std::max(most, (blocks + fastest.blocks_per_multiprocessor - 1) / fastest.blocks_per_multiprocessor);
  });
  return std::min(most, card.multiprocessors);
}

std::vector<Plan> plan_gradient(const std::vector<LinearLayer>& layers, const Card& card) {
  std::vector<Plan> plans;
  for_each_run(layers, [&](const auto& run, int first) { plans.push_back(plan_gradient_launch(run, first, card)); });
  return plans;
}

void place_workspace(Plan& plan, char* workspace) {
  for (size_t i = 0; i < plan.workplaces.size(); ++i) {  // a gradient has none
    const Workplace& place = plan.workplaces[i];
    LayerPlan& layer = plan.launch.layer[i];
    layer.squares_v = reinterpret_cast<uint64_t*>(workspace + place.squares_v);
    layer.squares_u = reinterpret_cast<uint64_t*>(workspace + place.squares_u);
    layer.spare = reinterpret_cast<float*>(workspace + place.spare);
  }
}

}  // namespace gloro_fast::cuda
