// Ways to cut a product of a wide layer into tiles for tensor cores, and what they cost.
#include <algorithm>
#include <limits>

#include "power_iteration_tiling.h"

namespace gloro_fast::cuda {

namespace {

constexpr int kLogWarps = 3;
static_assert(1 << kLogWarps == kWarps);
constexpr int kJoinWords = kWarps / 2 * 32 * (kWarpPixels * kWarpChannels / 32);
constexpr int kNarrowest = 16;  // channels of a group; a warp's tile has 64
// Of a warp that adds a slice at one tap: products of 16 x 8 x 8, and loads of 16 bytes a lane, which take 4 cycles.
constexpr double kSliceFmas = kWarpPixels * kWarpChannels * kSlice;
constexpr double kSliceLoadCycles = 12 * 4;
constexpr double kCopyCycles = 4;        // of a warp that starts copies of 4 bytes: addresses, and banks met twice
constexpr double kStepCycles = 60;       // the barrier, and what is found anew
constexpr double kTables = 900;          // of an item
constexpr double kJoin = 300;            // for each halving of the warps that share sums
constexpr double kBytesPerCycle = 24;    // of a multiprocessor from the L2 cache, while all of them read
constexpr double kExactShare = 4.0 / 3;  // one application in six takes three products for one

int ceil_div(int value, int divisor) {
  return (value + divisor - 1) / divisor;
}

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The fewest taps with which a phase of the transposed product meets an output.
int fewest_taps(const AxisPlan& axis, bool transposed) {
  return transposed ? std::max(1, axis.kernel / axis.tap_step) : axis.kernel;
}

struct PackedSizes {
  int64_t weights, v, u;
};

PackedSizes packed_sizes(const LayerPlan& layer) {
  const int64_t inputs = round_up(layer.group_inputs, kSlice), outputs = round_up(layer.group_outputs, kSlice);
  return {layer.groups * inputs * outputs * layer.height.kernel * layer.width.kernel,
          layer.groups * inputs * layer.height.input * layer.width.input,
          layer.groups * outputs * layer.height.output * layer.width.output};
}

// Of a step whose copies start `stages - 1` steps before it is computed: it takes as long as its work, as its bytes
// from the L2 cache, or as its share of their latency.
double step_cycles(double work, double bytes, int stages) {
  return kStepCycles + std::max({work, bytes / kBytesPerCycle, Cost::kTrip / (stages - 1)});
}

double start_cycles(const Tiling& tiling) {
  return Cost::kItem + kTables + Cost::kTrip + kJoin * tiling.log_split;
}

}  // namespace

bool can_be_wide(const LayerPlan& layer) {
  if (layer.dense || std::min(layer.group_inputs, layer.group_outputs) < kNarrowest) return false;
  const PackedSizes sizes = packed_sizes(layer);
  return std::max({sizes.weights, sizes.v, sizes.u}) <= std::numeric_limits<int32_t>::max();
}

int64_t packed_bytes(const LayerPlan& layer) {
  const PackedSizes sizes = packed_sizes(layer);
  return 4 * (sizes.weights + 2 * sizes.v + sizes.u);
}

double packing_cycles(const LayerPlan& layer) {
  return 2 * Cost::kTrip + 2.0 * packed_bytes(layer) / (layer.blocks * kBytesPerCycle);
}

double gemm_item_cycles(const LayerPlan& layer, const Tiling& tiling, bool transposed, const Cost& cost) {
  const int in_channels = static_cast<int>(round_up(transposed ? layer.group_outputs : layer.group_inputs, kSlice));
  const int taps = most_taps(layer.height, transposed) * most_taps(layer.width, transposed);
  const int positions = window_extent(layer.height, transposed, tiling.tile_height) *
                        window_extent(layer.width, transposed, tiling.tile_width);
  const int chunk = kSlice << tiling.log_split, chunks = ceil_div(in_channels, chunk);
  const double steps = double(chunks) * ceil_div(taps, tiling.step_taps);
  const double work = double(chunks) * taps * kWarps * (kSliceFmas / cost.tensor_fmas + kSliceLoadCycles) *
                      (transposed ? 1 : kExactShare);
  const double bytes = 4.0 * chunks * chunk * (double(taps) * channels_of_a_tile(tiling) + positions);
  return start_cycles(tiling) + steps * step_cycles(work / steps, bytes / steps, tiling.stages);
}

double gemm_gradient_item_cycles(const LayerPlan& layer, const Tiling& tiling, const Cost& cost) {
  const int outputs = layer.height.output * layer.width.output;
  const int columns = channels_of_a_tile(tiling);
  const int rows = kWarps * kWarpPixels * kWarpChannels / columns >> tiling.log_split;
  const double words = tiling.chunk * double(rows + columns);
  const double octets = tiling.chunk / 8.0 * (kWarps >> tiling.log_split);  // of all warps, half a slice each
  const double work =
      std::max(octets / 2 * (3 * kSliceFmas / cost.tensor_fmas + kSliceLoadCycles), words / 32 * kCopyCycles);
  return start_cycles(tiling) + ceil_div(outputs, tiling.chunk) * step_cycles(work, 4 * words, tiling.stages);
}

std::vector<Candidate> gemm_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost) {
  const int in_channels = static_cast<int>(round_up(transposed ? layer.group_outputs : layer.group_inputs, kSlice));
  const int out_channels = transposed ? layer.group_inputs : layer.group_outputs;
  const int height = phase_size(layer.height, transposed), width = phase_size(layer.width, transposed);
  const int phases = transposed ? layer.height.stride * layer.width.stride : 1;
  const int taps = most_taps(layer.height, transposed) * most_taps(layer.width, transposed);
  const int few_taps = fewest_taps(layer.height, transposed) * fewest_taps(layer.width, transposed);
  std::vector<Candidate> found;
  for (int log_columns = 0; log_columns <= kLogWarps; ++log_columns) {
    if (log_columns > 0 && kWarpChannels << log_columns >= 2 * out_channels) break;
    for (int split = 0; log_columns + split <= kLogWarps; ++split) {
      const int chunk = kSlice << split, chunks = ceil_div(in_channels, chunk);
      if (split > 0 && chunk >= 2 * in_channels) break;
      for (const int columns : {width, 32, 16, 8}) {
        if (columns != width && columns >= width) continue;
        for (const int step_taps : {1, 2, 3, 5, 9}) {
          if (step_taps > taps) break;
          for (const int stages : {2, 3}) {
            Candidate candidate;
            Tiling& tiling = candidate.tiling;
            tiling = {};
            tiling.log_channel_lanes = 3 + log_columns;
            tiling.log_split = split;
            tiling.step_taps = static_cast<int16_t>(step_taps), tiling.stages = static_cast<int8_t>(stages);
            const int channels = channels_of_a_tile(tiling);
            const int pixels = kWarpPixels << (kLogWarps - log_columns - split);
            set_tiles(tiling, height, width, columns, pixels);
            tiling.channel_tiles = ceil_div(out_channels, channels);
            tiling.items = layer.groups * tiling.channel_tiles * phases * tiling.tiles_y * tiling.tiles_x;
            const int positions = set_plane(tiling, layer, transposed);
            // A chunk's window is staged with its first step, while those of the steps before are still read.
            tiling.windows =
                static_cast<int8_t>(std::min(chunks, ceil_div(stages - 1, ceil_div(few_taps, step_taps)) + 1));
            const int64_t steps = int64_t{chunks} * ceil_div(taps, step_taps);
            const int64_t tables = round_up(kGemmItemWords + 2 * steps + pixels + positions + 2 * taps, 4);
            const int64_t staged = int64_t{stages} * step_taps * chunk * channels;
            const int64_t windows = int64_t{tiling.windows} * positions * chunk;
            const int64_t join = split > 0 ? std::max<int64_t>(0, kJoinWords - staged) : 0;
            if (tables + staged + std::max(windows, join) > budget_words) continue;
            candidate.table_words = static_cast<int>(tables);
            candidate.fixed_words = static_cast<int>(tables + staged);
            candidate.window_words = static_cast<int>(std::max(windows, join));
            candidate.cycles = gemm_item_cycles(layer, tiling, transposed, cost);
            found.push_back(candidate);
          }
        }
      }
    }
  }
  drop_the_worse(found);
  return found;
}

std::vector<Candidate> gemm_gradient_candidates(const LayerPlan& layer, int budget_words, const Cost& cost) {
  const int entries = layer.group_inputs * layer.height.kernel * layer.width.kernel;
  std::vector<Candidate> found;
  for (int log_columns = 0; log_columns <= kLogWarps; ++log_columns) {
    if (log_columns > 0 && kWarpChannels << log_columns >= 2 * entries) break;
    for (int split = 0; log_columns + split <= kLogWarps; ++split) {
      for (const int stages : {2, 3}) {
        Candidate candidate;
        Tiling& tiling = candidate.tiling;
        tiling = {};
        tiling.log_channel_lanes = 3 + log_columns;
        tiling.log_split = split;
        tiling.stages = static_cast<int8_t>(stages);
        tiling.chunk = 8 * std::max(2, 1 << split);
        const int rows = kWarpPixels << (kLogWarps - log_columns - split), columns = channels_of_a_tile(tiling);
        tiling.channel_tiles = ceil_div(layer.group_outputs, rows);
        tiling.entry_tiles = ceil_div(entries, columns);
        tiling.items = layer.groups * tiling.channel_tiles * tiling.entry_tiles;
        candidate.table_words = 4 * columns;
        candidate.fixed_words =
            candidate.table_words + std::max(stages * tiling.chunk * (rows + columns), split > 0 ? kJoinWords : 0);
        if (candidate.fixed_words > budget_words) continue;
        candidate.cycles = gemm_gradient_item_cycles(layer, tiling, cost);
        found.push_back(candidate);
      }
    }
  }
  return found;
}

}  // namespace gloro_fast::cuda
