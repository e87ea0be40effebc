#include "power_iteration_tiling.h"

#include <algorithm>
#include <utility>

namespace gloro_fast::cuda {

namespace {

constexpr int kLogWarps = 3;
static_assert(1 << kLogWarps == kWarps);
constexpr int kMostChannelLanes = 3;  // as a power of two
constexpr int kMostDenseChunk = 8192;

int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int ceil_div(int value, int divisor) {
  return (value + divisor - 1) / divisor;
}

// What warps that share sums need to join them.
int join_words(const Tiling& tiling) {
  return tiling.log_split > 0 ? kThreads * kThreadChannels * tiling.thread_pixels / 2 : 0;
}

int steps(const AxisPlan& axis, bool transposed) {
  return transposed ? 1 : axis.stride;
}

void set_window_lanes(Tiling& tiling, const LayerPlan& layer, bool transposed, const Cost& cost) {
  const int positions = window_extent(layer.height, transposed, tiling.tile_height) *
                        window_extent(layer.width, transposed, tiling.tile_width);
  tiling.log_window_lanes = best_window_lanes(positions, tiling.chunk, cost);
}

// Columns of a tile at most, and pixels of a thread.
std::vector<std::pair<int, int>> shapes(int width) {
  std::vector<std::pair<int, int>> found;
  for (const int columns : {width, 32, 16})
    for (const int pixels : {kThreadPixels, kFewThreadPixels})
      if (columns == width || columns < width) found.emplace_back(columns, pixels);
  return found;
}

}  // namespace

int phase_size(const AxisPlan& axis, bool transposed) {
  return transposed ? ceil_div(axis.input, axis.stride) : axis.output;
}

void set_tiles(Tiling& tiling, int height, int width, int columns, int capacity) {
  tiling.tiles_x = ceil_div(width, std::min({width, capacity, columns}));
  tiling.tile_width = ceil_div(width, tiling.tiles_x);
  tiling.tiles_y = ceil_div(height, std::min(height, capacity / tiling.tile_width));
  tiling.tile_height = ceil_div(height, tiling.tiles_y);
}

int set_plane(Tiling& tiling, const LayerPlan& layer, bool transposed) {
  const int step_y = steps(layer.height, transposed), step_x = steps(layer.width, transposed);
  tiling.rows = ceil_div(window_extent(layer.height, transposed, tiling.tile_height), step_y);
  tiling.pitch = ceil_div(window_extent(layer.width, transposed, tiling.tile_width), step_x);
  return step_y * step_x * tiling.rows * tiling.pitch;
}

void drop_the_worse(std::vector<Candidate>& candidates) {
  const auto as_good = [](const Candidate& a, const Candidate& b) {
    return a.tiling.items <= b.tiling.items && a.fixed_words <= b.fixed_words && a.window_words <= b.window_words &&
           a.cycles <= b.cycles && a.staging <= b.staging && a.whole >= b.whole;
  };
  std::vector<Candidate> kept;
  for (const Candidate& candidate : candidates) {
    if (std::any_of(kept.begin(), kept.end(), [&](const Candidate& k) { return as_good(k, candidate); })) continue;
    kept.erase(std::remove_if(kept.begin(), kept.end(), [&](const Candidate& k) { return as_good(candidate, k); }),
               kept.end());
    kept.push_back(candidate);
  }
  candidates = kept;
}

int pixels_of_a_tile(const Tiling& tiling) {
  return (32 >> tiling.log_channel_lanes) * tiling.thread_pixels * (kWarps >> tiling.log_split);
}

int channels_of_a_tile(const Tiling& tiling) {
  return kThreadChannels << tiling.log_channel_lanes;
}

int most_taps(const AxisPlan& axis, bool transposed) {
  return transposed ? ceil_div(axis.kernel, axis.tap_step) : axis.kernel;
}

int window_extent(const AxisPlan& axis, bool transposed, int outputs) {
  if (transposed) return outputs + (most_taps(axis, true) - 1) * axis.tap_shift;
  return (outputs - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1;
}

std::vector<Candidate> conv_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost) {
  const int in_channels = transposed ? layer.group_outputs : layer.group_inputs;
  const int out_channels = transposed ? layer.group_inputs : layer.group_outputs;
  const int height = phase_size(layer.height, transposed), width = phase_size(layer.width, transposed);
  const int phases = transposed ? layer.height.stride * layer.width.stride : 1;
  const int taps = most_taps(layer.height, transposed) * most_taps(layer.width, transposed);
  std::vector<Candidate> found;
  for (int lanes = 0; lanes <= kMostChannelLanes; ++lanes) {
    if (lanes > 0 && kThreadChannels << lanes >= 2 * out_channels) break;
    for (int split = 0; split <= kLogWarps; ++split) {
      for (const auto& [columns, pixels] : shapes(width)) {
        Candidate candidate;
        Tiling& tiling = candidate.tiling;
        tiling = {};
        tiling.log_channel_lanes = lanes;
        tiling.log_split = split;
        tiling.thread_pixels = pixels;
        set_tiles(tiling, height, width, columns, pixels_of_a_tile(tiling));
        tiling.channel_tiles = ceil_div(out_channels, channels_of_a_tile(tiling));
        tiling.items = layer.groups * tiling.channel_tiles * phases * tiling.tiles_y * tiling.tiles_x;
        const int plane = set_plane(tiling, layer, transposed);
        const int join = join_words(tiling);
        const int per_channel = taps * (2 + channels_of_a_tile(tiling));
        const auto words = [&](int chunk) {
          return round_up(2 * taps * chunk, 4) + taps * chunk * channels_of_a_tile(tiling) +
                 std::max(chunk * plane, join);
        };
        const int most = std::min(in_channels, budget_words / (per_channel + plane));
        tiling.chunk = most;
        while (tiling.chunk > 0 && words(tiling.chunk) > budget_words) --tiling.chunk;
        if (tiling.chunk == 0) continue;
        const int chunks = ceil_div(in_channels, tiling.chunk);
        tiling.chunk = ceil_div(in_channels, chunks);
        candidate.whole = chunks == 1;
        candidate.table_words = round_up(2 * taps * tiling.chunk, 4);
        candidate.fixed_words = candidate.table_words + taps * tiling.chunk * channels_of_a_tile(tiling);
        candidate.window_words = std::max(tiling.chunk * plane, join);
        set_window_lanes(tiling, layer, transposed, cost);
        candidate.staging = staging_cycles(layer, tiling, transposed, cost);
        candidate.cycles = item_cycles(layer, tiling, transposed, cost);
        found.push_back(candidate);
      }
    }
  }
  drop_the_worse(found);
  return found;
}

std::vector<Candidate> dense_candidates(const LayerPlan& layer, bool transposed, int budget_words, const Cost& cost) {
  const int rows = layer.group_outputs, columns = layer.group_inputs;
  const int bytes = layer.type == WeightType::float32 ? 4 : 2;
  const int strip = kDenseStripBytes / bytes;
  const int joined = transposed ? kThreads / (kDenseStripBytes / 16) * strip : 0;
  Candidate candidate;
  Tiling& tiling = candidate.tiling;
  tiling = {};
  const int length = round_up(transposed ? rows : columns, 8);
  tiling.chunk = std::min({length, kMostDenseChunk, (budget_words - joined) / 8 * 8});
  if (tiling.chunk < 8) return {};
  tiling.items = transposed ? ceil_div(columns, strip) : ceil_div(rows, kWarps * kDenseRows);
  tiling.window = tiling.chunk;
  candidate.window_words = tiling.chunk + joined;
  candidate.cycles = item_cycles(layer, tiling, transposed, cost);
  return {candidate};
}

std::vector<Candidate> gradient_candidates(const LayerPlan& layer, int budget_words, const Cost& cost) {
  const int taps = layer.height.kernel * layer.width.kernel;
  const int entries = layer.group_inputs * taps;
  std::vector<Candidate> found;
  for (int lanes = 0; lanes <= kMostChannelLanes; ++lanes) {
    if (lanes > 0 && kThreadChannels << lanes >= 2 * layer.group_outputs) break;
    for (int split = 0; split <= kLogWarps; ++split) {
      for (const int pixels : {256, 128, 64, 32, 8}) {
        Candidate candidate;
        Tiling& tiling = candidate.tiling;
        tiling = {};
        tiling.log_channel_lanes = lanes;
        tiling.log_split = split;
        tiling.thread_pixels = kThreadPixels;
        const int width = std::min(layer.width.output, std::min(pixels, 32));
        tiling.tiles_x = ceil_div(layer.width.output, width);
        tiling.tile_width = ceil_div(layer.width.output, tiling.tiles_x);
        tiling.tiles_y = ceil_div(layer.height.output, std::min(layer.height.output, pixels / tiling.tile_width));
        tiling.tile_height = ceil_div(layer.height.output, tiling.tiles_y);
        tiling.channel_tiles = ceil_div(layer.group_outputs, channels_of_a_tile(tiling));
        const int entries_of_a_tile = pixels_of_a_tile(tiling);
        tiling.entry_tiles = ceil_div(entries, entries_of_a_tile);
        tiling.items = layer.groups * tiling.channel_tiles * tiling.entry_tiles;
        tiling.chunk = std::min(layer.group_inputs, (entries_of_a_tile + taps - 2) / taps + 1);
        const int plane = set_plane(tiling, layer, false);
        const int terms = tiling.tile_height * tiling.tile_width;
        candidate.table_words = round_up(terms, 4);
        candidate.fixed_words = candidate.table_words + terms * channels_of_a_tile(tiling);
        candidate.window_words = std::max(tiling.chunk * plane, join_words(tiling));
        if (candidate.fixed_words + candidate.window_words > budget_words) continue;
        set_window_lanes(tiling, layer, false, cost);
        candidate.cycles = gradient_item_cycles(layer, tiling, cost);
        found.push_back(candidate);
      }
    }
  }
  return found;
}

}  // namespace gloro_fast::cuda
