#include "power_iteration_planner.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "power_iteration_tiling.h"

namespace gloro_fast::cuda {

namespace {

using cpu::Axis;
using cpu::Element;
using cpu::LinearLayer;

// What `enough` is: so many times as long as on all multiprocessors.
constexpr double kEnough = 1.1;
// Tensor cores must be predicted to take at most this part of the time of the other path, which has been measured.
constexpr double kConvincing = 0.9;
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

int budget_words(const Card& card, int blocks_per_multiprocessor = kBlocksPerMultiprocessor) {
  const int shared = card.shared_bytes / blocks_per_multiprocessor - card.reserved_bytes_per_block;
  return (std::min(shared, card.shared_bytes_per_block) - kReservedBytes) / 16 * 4;
}

// Of the first cards of each compute capability, at their boost clock. Latencies in cycles are an H100's.
Cost cost_of(const Card& card, int sharing) {
  static constexpr struct {
    int major, minor;
    double gigahertz, fma_lanes, tensor_fmas;
  } kKnown[] = {{8, 0, 1.41, 64, 512},
                {8, 6, 1.71, 128, 128},
                {8, 9, 2.52, 128, 128},
                {10, 0, 1.9, 128, 1024},
                {12, 0, 2.41, 128, 128}};
  Cost cost;
  cost.sharing = sharing;
  for (const auto& known : kKnown)
    if (known.major == card.major && known.minor == card.minor)
      cost.gigahertz = known.gigahertz, cost.fma_lanes = known.fma_lanes, cost.tensor_fmas = known.tensor_fmas;
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
  // `wide`: also on tensor cores, `only_wide`: nowhere else.
  Choices(const LayerPlan& layer, int budget, const Cost& cost, int most_blocks, bool wide, bool only_wide)
      : layer_(layer), budget_(budget), cost_(cost) {
    const auto candidates = layer.dense ? dense_candidates : conv_candidates;
    forward_ = candidates(layer, false, budget, cost);
    transposed_ = candidates(layer, true, budget, cost);
    if (forward_.empty() || transposed_.empty())
      refuse("a layer's window or kernel is larger than the shared memory of this GPU");
    if (wide) {
      wide_forward_ = gemm_candidates(layer, false, budget, cost);
      wide_transposed_ = gemm_candidates(layer, true, budget, cost);
      if (wide_forward_.empty()) wide_transposed_.clear();
      only_wide_ = only_wide && !wide_transposed_.empty();
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
    Choice best;
    if (!only_wide_) {
      best = choose_apart(forward_, transposed_, blocks);
      if (!layer_.dense) {
        const Choice resident = choose_resident(blocks);
        if (resident.words > 0 && resident.cycles < best.cycles) best = resident;
      }
      price(best, blocks);
    }
    if (!wide_transposed_.empty()) {
      Choice wide = choose_apart(wide_forward_, wide_transposed_, blocks);
      wide.wide = true;
      price(wide, blocks);
      if (wide.cycles < best.cycles) best = wide;
    }
    return best;
  }

 private:
  void price(Choice& choice, int blocks) const {
    LayerPlan planned = layer_;
    planned.blocks = blocks, planned.forward = choice.forward, planned.transposed = choice.transposed;
    planned.wide = choice.wide;
    choice.cycles = layer_cycles(planned, kTypicalIterations, cost_);
  }

  double product_cycles(const Candidate& candidate, int blocks) const {
    const int rounds = (candidate.tiling.items + blocks - 1) / blocks;
    return rounds * (candidate.cycles + candidate.staging) + find_cycles(layer_, rounds);
  }

  // Each product for itself, all of shared memory its own.
  Choice choose_apart(const std::vector<Candidate>& forwards, const std::vector<Candidate>& transposeds,
                      int blocks) const {
    const auto best = [&](const std::vector<Candidate>& list) {
      return *std::min_element(list.begin(), list.end(), [&](const Candidate& a, const Candidate& b) {
        return product_cycles(a, blocks) < product_cycles(b, blocks);
      });
    };
    const Candidate forward = best(forwards), transposed = best(transposeds);
    Choice choice;
    choice.forward = layer_.dense ? forward.tiling : lay_out(forward, 0, forward.fixed_words);
    choice.transposed = layer_.dense ? transposed.tiling : lay_out(transposed, 0, transposed.fixed_words);
    choice.words =
        std::max(forward.fixed_words + forward.window_words, transposed.fixed_words + transposed.window_words);
    choice.cycles = (kTypicalIterations + 1) * product_cycles(forward, blocks) +
                    kTypicalIterations * product_cycles(transposed, blocks);
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
        const double cycles = (kTypicalIterations + 1) * forward.cycles + forward.staging +
                              kTypicalIterations * transposed.cycles + transposed.staging;
        if (words > budget_ || cycles >= choice.cycles) continue;
        choice = {lay_out(forward, 0, window), lay_out(transposed, forward.fixed_words, window), words, cycles};
        choice.forward.resident = choice.transposed.resident = 1;
      }
    }
    return choice;
  }

  LayerPlan layer_;
  int budget_;
  Cost cost_;
  bool only_wide_ = false;
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
  Cost cost;
  std::vector<Choices> choices;
  double cycles = 0;
  bool wide = false;

  double price() const { return wide ? cycles / kConvincing : cycles; }
};

// With `sharing` blocks on a multiprocessor; `wide`: with one, which has all of its shared memory, for the kernel that
// knows tensor cores.
Fastest find_fastest(const std::vector<LayerPlan>& layers, const Card& card, int sharing, bool wide = false) {
  const int most_blocks = card.multiprocessors * sharing, budget = wide ? budget_words(card, 1) : budget_words(card);
  Fastest fastest;
  fastest.cost = cost_of(card, sharing);
  fastest.wide = wide;
  double low = 0, high = 0;
  for (const LayerPlan& layer : layers) {
    fastest.choices.emplace_back(layer, budget, fastest.cost, most_blocks, wide && may_be_wide(layer, card),
                                 card.cores == Cores::tensor);
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

// One block on a multiprocessor, which has it to itself, or as many as fit: the one waits less, the others less long
// for memory.
std::vector<Fastest> find_all(const std::vector<LayerPlan>& layers, const Card& card) {
  std::vector<Fastest> all;
  const bool wide = may_be_wide(layers, card);
  if (wide) all.push_back(find_fastest(layers, card, 1, true));
  if (wide && card.cores == Cores::tensor) return all;
  for (int sharing = 1; sharing <= card.blocks_per_multiprocessor; ++sharing)
    all.push_back(find_fastest(layers, card, sharing));
  return all;
}

Fastest& fastest_of(std::vector<Fastest>& all) {
  return *std::min_element(all.begin(), all.end(),
                           [](const Fastest& a, const Fastest& b) { return a.price() < b.price(); });
}

Plan plan_launch(const std::vector<LayerPlan>& layers, int first_index, const Card& card) {
  std::vector<Fastest> all = find_all(layers, card);
  Fastest& fastest = fastest_of(all);
  std::vector<Choices>& choices = fastest.choices;
  const Division division = divide(choices, fastest.cycles);

  Plan plan;
  plan.microseconds = fastest.cost.microseconds(fastest.cycles + Cost::kLaunch);
  plan.blocks_per_multiprocessor = fastest.cost.sharing;
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
  const int sharing = wide ? 1 : kBlocksPerMultiprocessor;
  const double blocks_at_once = card.multiprocessors * sharing;
  const int budget = budget_words(card, sharing);
  const Cost cost = cost_of(card, sharing);
  double longest = 0, all = 0;
  Plan plan;
  plan.launch = {};
  plan.wide = wide;
  int words = kGradientRows;
  for (LayerPlan layer : layers) {
    if (layer.dense) {
      layer.forward = dense_gradient_tiling(layer);
    } else {
      std::vector<Candidate> candidates;
      if (wide && may_be_wide(layer, card)) candidates = gemm_gradient_candidates(layer, budget, cost);
      layer.wide = !candidates.empty();
      if (!layer.wide) candidates = gradient_candidates(layer, budget, cost);
      if (candidates.empty()) refuse("a layer's window or kernel is larger than the shared memory of this GPU");
      // An item's own time counts, and its share of the card's.
      const auto price = [&](const Candidate& c) { return c.cycles * (1 + c.tiling.items / blocks_at_once); };
      const Candidate best = *std::min_element(candidates.begin(), candidates.end(),
                                               [&](const auto& a, const auto& b) { return price(a) < price(b); });
      layer.forward = lay_out(best, 0, best.fixed_words);
      words = std::max(words, best.fixed_words + best.window_words);
      longest = std::max(longest, best.cycles), all += best.cycles * best.tiling.items;
    }
    layer.first_block = plan.blocks, layer.blocks = layer.forward.items;
    plan.blocks += layer.blocks;
    plan.order.push_back(first_index + plan.launch.layers);
    plan.launch.layer[plan.launch.layers++] = layer;
  }
  plan.shared_bytes = kReservedBytes + 4 * words;
  plan.microseconds = cost.microseconds(std::max(longest, all / blocks_at_once) + 2 * Cost::kTrip);
  return plan;
}

Plan plan_gradient_launch(const std::vector<LayerPlan>& layers, int first_index, const Card& card) {
  if (!may_be_wide(layers, card)) return plan_gradient_launch(layers, first_index, card, false);
  Plan wide = plan_gradient_launch(layers, first_index, card, true);
  if (card.cores == Cores::tensor) return wide;
  Plan narrow = plan_gradient_launch(layers, first_index, card, false);
  return wide.microseconds < kConvincing * narrow.microseconds ? wide : narrow;
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
    const auto cycles = [&](int multiprocessors) {
      std::vector<Fastest> all = find_all(run, share_of(card, multiprocessors));
      return fastest_of(all).cycles + Cost::kLaunch;
    };
    const double enough = kEnough * cycles(card.multiprocessors);
    int low = 0, high = card.multiprocessors;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (cycles(middle) <= enough ? high : low) = middle;
    }
    most = std::max(most, high);
  });
  return std::min(most, card.multiprocessors);
}

double predict_microseconds(const Plan& plan, int iterations, const Card& card) {
  if (plan.workplaces.empty())
    throw std::runtime_error("a gradient has no iterations to predict; its plan's microseconds are all there is");
  const Cost cost = cost_of(card, plan.blocks > card.multiprocessors ? kBlocksPerMultiprocessor : 1);
  std::map<int, double> cycles;  // of blocks that go through the same layers
  for (int i = 0; i < plan.launch.layers; ++i)
    cycles[plan.launch.layer[i].first_block] += layer_cycles(plan.launch.layer[i], iterations, cost);
  double most = 0;
  for (const auto& [block, sum] : cycles) most = std::max(most, sum);
  return cost.microseconds(most + Cost::kLaunch);
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
