// Which part of a convolution an item is: channels, outputs, and the window of the input that they read.
#pragma once

#include "dialect.cuh"
#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

// A window of an input picture, along one axis, and how taps and outputs lie in it.
struct AxisView {
  int taps, tap, tap_step;  // the taps that count are tap + j * tap_step
  int shift, shift_step;    // and reach shift + j * shift_step into the window
  int origin, extent;       // of the window, in input positions
  int step;                 // from one output of the tile to the next, in the window
  int outputs, output, output_step;
};

// Outputs [start, start + most) of a layer.
GLORO_FAST_DEVICE AxisView view_forward(const AxisPlan& axis, int start, int most) {
  AxisView view;
  view.taps = axis.kernel, view.tap = 0, view.tap_step = 1;
  view.shift = 0, view.shift_step = axis.dilation;
  view.origin = start * axis.stride - axis.padding;
  view.step = axis.stride;
  view.outputs = min(most, axis.output - start);
  view.output = start, view.output_step = 1;
  view.extent = (view.outputs - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1;
  return view;
}

// Inputs phase + stride * [start, start + most) of a layer, as its transpose gives them: a gather. Input i meets
// output o through tap k where i + padding - dilation * k = stride * o.
GLORO_FAST_DEVICE AxisView view_transposed(const AxisPlan& axis, int phase, int start, int most) {
  AxisView view;
  const int reach = phase + axis.padding;
  view.tap = 0, view.tap_step = axis.tap_step;
  while (view.tap < axis.tap_step && (reach - axis.dilation * view.tap) % axis.stride != 0) ++view.tap;
  const bool met = view.tap < axis.tap_step && view.tap < axis.kernel;
  view.taps = met ? (axis.kernel - 1 - view.tap) / axis.tap_step + 1 : 0;
  view.shift = met ? (view.taps - 1) * axis.tap_shift : 0;
  view.shift_step = -axis.tap_shift;
  // The last tap sees the first output; both divisions are exact.
  const int highest = met ? (reach - axis.dilation * view.tap) / axis.stride : 0;
  view.origin = start + highest - view.shift;
  view.step = 1;
  view.outputs = max(0, min(most, (axis.input - phase + axis.stride - 1) / axis.stride - start));
  view.output = phase + axis.stride * start, view.output_step = axis.stride;
  view.extent = view.outputs + view.shift;
  return view;
}

// One item: a tile of channels and pixels of a phase of a group, and the pictures around it.
struct ConvItem {
  int group, channel, channels;
  AxisView y, x;
  int in_channels, in_height, in_width;  // channels of a group
  int out_channels, out_height, out_width;
  int in_stride, out_stride;  // of the weight
};

GLORO_FAST_DEVICE ConvItem find_item(const LayerPlan& layer, const Tiling& tiling, bool transposed, int item) {
  const int tile_x = item % tiling.tiles_x;
  item /= tiling.tiles_x;
  const int tile_y = item % tiling.tiles_y;
  item /= tiling.tiles_y;
  const int channel_tile = item % tiling.channel_tiles;
  item /= tiling.channel_tiles;
  ConvItem found;
  found.channel = channel_tile * (kThreadChannels << tiling.log_channel_lanes);
  const int start_y = tile_y * tiling.tile_height, start_x = tile_x * tiling.tile_width;
  if (transposed) {
    const int phase_x = item % layer.width.stride;
    item /= layer.width.stride;
    const int phase_y = item % layer.height.stride;
    item /= layer.height.stride;
    found.y = view_transposed(layer.height, phase_y, start_y, tiling.tile_height);
    found.x = view_transposed(layer.width, phase_x, start_x, tiling.tile_width);
  } else {
    found.y = view_forward(layer.height, start_y, tiling.tile_height);
    found.x = view_forward(layer.width, start_x, tiling.tile_width);
  }
  found.group = item;
  found.in_channels = transposed ? layer.group_outputs : layer.group_inputs;
  found.in_height = transposed ? layer.height.output : layer.height.input;
  found.in_width = transposed ? layer.width.output : layer.width.input;
  found.in_stride = layer.weight_strides[transposed ? 0 : 1];
  found.out_channels = transposed ? layer.group_inputs : layer.group_outputs;
  found.out_height = transposed ? layer.height.input : layer.height.output;
  found.out_width = transposed ? layer.width.input : layer.width.output;
  found.out_stride = layer.weight_strides[transposed ? 1 : 0];
  found.channels = min(kThreadChannels << tiling.log_channel_lanes, found.out_channels - found.channel);
  return found;
}

// A block's items are this one and every `layer.blocks`-th after it.
GLORO_FAST_DEVICE int first_item(const LayerPlan& layer) {
  return static_cast<int>(blockIdx.x) - layer.first_block;
}

}  // namespace gloro_fast::cuda
