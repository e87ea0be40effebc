// Bytes that a plan asks of global memory, counted from the tiles alone: what the simulator counts must agree.
#include <algorithm>
#include <cmath>

#include "power_iteration_planner.h"

namespace gloro_fast::cuda {

namespace {

double weight_bytes(const LayerPlan& layer) {
  return layer.type == WeightType::float32 ? 4 : 2;
}

double input_size(const LayerPlan& layer) {
  return double(layer.groups) * layer.group_inputs * layer.height.input * layer.width.input;
}

double output_size(const LayerPlan& layer) {
  return double(layer.groups) * layer.group_outputs * layer.height.output * layer.width.output;
}

// Sums over all phases and tiles along one axis: input positions inside the picture that windows cover, and taps.
struct AxisSums {
  double positions = 0, taps = 0;
};

int clipped(int origin, int extent, int size) {
  return std::max(0, std::min(origin + extent, size) - std::max(origin, 0));
}

AxisSums forward_sums(const AxisPlan& axis, int tile, int tiles) {
  AxisSums sums;
  for (int t = 0; t < tiles; ++t) {
    const int outputs = std::min(tile, axis.output - t * tile);
    if (outputs <= 0) continue;
    const int extent = (outputs - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1;
    sums.positions += clipped(t * tile * axis.stride - axis.padding, extent, axis.input);
    sums.taps += axis.kernel;
  }
  return sums;
}

AxisSums transposed_sums(const AxisPlan& axis, int tile, int tiles) {
  AxisSums sums;
  for (int phase = 0; phase < axis.stride; ++phase) {
    int taps = 0, lowest = 0, highest = 0;
    for (int k = 0; k < axis.kernel; ++k) {
      const int reach = phase + axis.padding - axis.dilation * k;
      if (reach % axis.stride != 0) continue;
      lowest = reach / axis.stride;
      if (taps++ == 0) highest = lowest;
    }
    for (int t = 0; t < tiles && taps > 0; ++t) {
      const int outputs = std::min(tile, (axis.input - phase + axis.stride - 1) / axis.stride - t * tile);
      if (outputs <= 0) continue;
      sums.positions += clipped(t * tile + lowest, outputs + highest - lowest, axis.output);
      sums.taps += taps;
    }
  }
  return sums;
}

struct Product {
  double weights, inputs;
};

Product conv_product(const LayerPlan& layer, const Tiling& tiling, bool transposed) {
  const auto sums = transposed ? transposed_sums : forward_sums;
  const AxisSums y = sums(layer.height, tiling.tile_height, tiling.tiles_y);
  const AxisSums x = sums(layer.width, tiling.tile_width, tiling.tiles_x);
  const double channels = double(layer.groups) * layer.group_outputs * layer.group_inputs;
  const double in_channels = double(layer.groups) * (transposed ? layer.group_outputs : layer.group_inputs);
  return {channels * y.taps * x.taps * weight_bytes(layer),
          in_channels * tiling.channel_tiles * y.positions * x.positions * 4};
}

double slices(double channels) {
  return std::ceil(channels / kSlice) * kSlice;
}

// As conv_product, of packed weights and vectors.
Product gemm_product(const LayerPlan& layer, const Tiling& tiling, bool transposed) {
  const auto sums = transposed ? transposed_sums : forward_sums;
  const AxisSums y = sums(layer.height, tiling.tile_height, tiling.tiles_y);
  const AxisSums x = sums(layer.width, tiling.tile_width, tiling.tiles_x);
  const double inputs = slices(layer.group_inputs), outputs = slices(layer.group_outputs);
  return {4 * layer.groups * inputs * outputs * y.taps * x.taps,
          4 * layer.groups * (transposed ? outputs : inputs) * tiling.channel_tiles * y.positions * x.positions};
}

// Pairs of an output and a tap that meet an input, along one axis.
double meetings(const AxisPlan& axis) {
  double sum = 0;
  for (int k = 0; k < axis.kernel; ++k)
    for (int o = 0; o < axis.output; ++o) {
      const int input = o * axis.stride + k * axis.dilation - axis.padding;
      sum += input >= 0 && input < axis.input;
    }
  return sum;
}

Product dense_product(const LayerPlan& layer, const Tiling& tiling, bool transposed) {
  const double length = transposed ? layer.group_outputs : layer.group_inputs;
  const int readings = tiling.chunk >= length ? std::min(layer.blocks, tiling.items) : tiling.items;
  return {double(layer.group_outputs) * layer.group_inputs * weight_bytes(layer), readings * length * 4};
}

}  // namespace

Traffic predict_traffic(const Plan& plan, int index, int iterations) {
  const LayerPlan& layer = plan.launch.layer[index];
  Traffic traffic;
  for (const bool transposed : {false, true}) {
    const Tiling& tiling = transposed ? layer.transposed : layer.forward;
    const int products = transposed ? iterations : iterations + 1;
    const auto count = layer.dense ? dense_product : layer.wide ? gemm_product : conv_product;
    const Product product = count(layer, tiling, transposed);
    traffic.weights += product.weights * (tiling.resident ? std::min(products, 1) : products);
    const double written = transposed ? input_size(layer) : output_size(layer);
    const int channels = transposed ? layer.group_inputs : layer.group_outputs;
    traffic.vectors += products * (product.inputs + 4 * written * (layer.wide ? slices(channels) / channels : 1));
    traffic.norms += 8.0 * layer.blocks * (1 + (layer.blocks > 1 ? products : 0));  // what is read while waiting apart
  }
  if (layer.wide) {  // packed
    const double weights = double(layer.groups) * layer.height.kernel * layer.width.kernel;
    const double inputs = slices(layer.group_inputs), outputs = slices(layer.group_outputs);
    traffic.weights +=
        weights * (layer.group_outputs * layer.group_inputs * weight_bytes(layer) + 4 * inputs * outputs);
    traffic.vectors += 4 * input_size(layer) * (1 + inputs / layer.group_inputs);
  }
  // At the end both iterates are read, divided by their norms and written.
  traffic.vectors += 8 * (input_size(layer) + output_size(layer));
  return traffic;
}

Traffic predict_gradient_traffic(const Plan& plan, int index) {
  const LayerPlan& layer = plan.launch.layer[index];
  const Tiling& tiling = layer.forward;
  Traffic traffic;
  traffic.norms = 4.0 * kThreads * tiling.items;  // every thread reads the factor
  if (layer.dense) {
    traffic.weights = double(layer.group_outputs) * layer.group_inputs * weight_bytes(layer);
    const double row_tiles = tiling.items / tiling.entry_tiles;
    traffic.vectors = 4 * (row_tiles * layer.group_inputs + double(tiling.entry_tiles) * layer.group_outputs);
    return traffic;
  }
  const int taps = layer.height.kernel * layer.width.kernel, entries = layer.group_inputs * taps;
  traffic.weights = double(layer.groups) * layer.group_outputs * entries * weight_bytes(layer);
  if (layer.wide) {
    traffic.vectors =
        4.0 * layer.groups *
        (double(tiling.channel_tiles) * layer.group_inputs * meetings(layer.height) * meetings(layer.width) +
         double(tiling.entry_tiles) * layer.group_outputs * layer.height.output * layer.width.output);
    return traffic;
  }
  // Windows are staged for whole tiles, outputs beyond the picture included.
  const auto positions = [](const AxisPlan& axis, int tile, int tiles) {
    double sum = 0;
    const int extent = (tile - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1;
    for (int t = 0; t < tiles; ++t) sum += clipped(t * tile * axis.stride - axis.padding, extent, axis.input);
    return sum;
  };
  const int tile_entries = (32 >> tiling.log_channel_lanes) * kThreadPixels * (kWarps >> tiling.log_split);
  double inputs = 0;
  for (int tile = 0; tile < tiling.entry_tiles; ++tile) {
    inputs += std::min(((tile + 1) * tile_entries - 1) / taps, layer.group_inputs - 1) - tile * tile_entries / taps + 1;
  }
  traffic.vectors = 4.0 * layer.groups *
                    (tiling.channel_tiles * inputs * positions(layer.height, tiling.tile_height, tiling.tiles_y) *
                         positions(layer.width, tiling.tile_width, tiling.tiles_x) +
                     double(tiling.entry_tiles) * layer.group_outputs * layer.height.output * layer.width.output);
  return traffic;
}

}  // namespace gloro_fast::cuda
