// A convolution or its transpose applied to one picture by a group of blocks.
#pragma once

#include "dialect.cuh"
#include "power_iteration_item.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_tile.cuh"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// For each term (input channel, tap), channels first: its shift in the window, and its offset in the weight.
GLORO_FAST_DEVICE void write_tables(int* shifts, int* offsets, int channels, const ConvItem& item,
                                    const WindowLayout& layout, const LayerPlan& layer) {
  const int taps = item.y.taps * item.x.taps;
  for (int k = static_cast<int>(threadIdx.x); k < channels * taps; k += kThreads) {
    const int channel = k / taps, j = k % taps;
    const int jy = j / item.x.taps, jx = j % item.x.taps;
    shifts[k] = channel * layout.channel() +
                layout.at(item.y.shift + jy * item.y.shift_step, item.x.shift + jx * item.x.shift_step);
    offsets[k] = channel * item.in_stride + (item.y.tap + jy * item.y.tap_step) * layer.weight_strides[2] +
                 (item.x.tap + jx * item.x.tap_step) * layer.weight_strides[3];
  }
}

// Stages the weights of `terms` terms and a tile of channels as [term][channel]. Eight lanes follow the terms, which
// mostly lie side by side in memory, and four the channels, so that a store meets no bank more than twice.
GLORO_FAST_DEVICE void stage_weights(float* weights, int log_width, const int* offsets, int terms,
                                     const LayerPlan& layer, const ConvItem& item, int first_channel) {
  const int64_t first = static_cast<int64_t>(item.group) * layer.group_outputs * layer.weight_strides[0] +
                        static_cast<int64_t>(first_channel) * item.in_stride +
                        static_cast<int64_t>(item.channel) * item.out_stride;
  const int total = (terms + 7) / 8 * 8 << log_width;
  for (int start = static_cast<int>(threadIdx.x); start < total; start += kWeightLoads * kThreads) {
    float values[kWeightLoads];
#pragma unroll
    for (int load = 0; load < kWeightLoads; ++load) {
      const int i = start + load * kThreads;
      const int channel = i >> 3 & ((1 << log_width) - 1);
      const int k = i >> (log_width + 3) << 3 | (i & 7);
      values[load] = 0;
      if (k < terms && channel < item.channels)
        values[load] = load_weight(layer.weight, layer.type,
                                   first + offsets[k] + static_cast<int64_t>(channel) * item.out_stride);
    }
#pragma unroll
    for (int load = 0; load < kWeightLoads; ++load) {
      const int i = start + load * kThreads;
      const int channel = i >> 3 & ((1 << log_width) - 1);
      const int k = i >> (log_width + 3) << 3 | (i & 7);
      if (k < terms) weights[(k << log_width) + channel] = values[load];
    }
  }
}

// Writes the sums that lie within the picture and clears the others.
GLORO_FAST_DEVICE void write_sums(Sums& sums, const Place& place, const ConvItem& item, float* out) {
  const int pixels = item.y.outputs * item.x.outputs;
  const int plane = item.out_height * item.out_width;
  const int first = (item.group * item.out_channels + item.channel + place.channel) * plane;
#pragma unroll
  for (int p = 0; p < kThreadPixels; ++p) {
    const int pixel = place.pixel + p * place.pixels;
    const bool inside = pixel < pixels;
    const int oy = inside ? item.y.output + pixel / item.x.outputs * item.y.output_step : 0;
    const int ox = inside ? item.x.output + pixel % item.x.outputs * item.x.output_step : 0;
    int at = first + oy * item.out_width + ox;
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c, at += plane) {
      if (inside && place.channel + c < item.channels)
        out[at] = sums[c][p];
      else
        sums[c][p] = 0;
    }
  }
}

// Writes out = A (in * scale), or A^T of it; returns this thread's part of the sum of its squares. The block's first
// item has been found.
GLORO_FAST_DEVICE double apply_conv(const LayerPlan& layer, const Tiling& tiling, Board& board, float* memory) {
  const Step& step = board.step;
  const ConvItem& item = board.item;
  const int log_width = 3 + tiling.log_channel_lanes;
  const Place place(tiling);
  int* const shifts = reinterpret_cast<int*>(memory + tiling.tables);
  float* const weights = memory + tiling.weights;
  float* const window = memory + tiling.window;

  double square = 0;
  for (int index = first_item(layer); index < tiling.items; index += layer.blocks) {
    if (index != first_item(layer)) {
      __syncthreads();
      if (threadIdx.x == 0) board.item = find_item(layer, tiling, step.transposed, index);
      __syncthreads();
    }
    const int taps = item.y.taps * item.x.taps, pixels = item.y.outputs * item.x.outputs;
    const WindowLayout layout{item.y.step, item.x.step, tiling.rows, tiling.pitch};
    int* const offsets = shifts + tiling.chunk * taps;
    int bases[kThreadPixels];
#pragma unroll
    for (int p = 0; p < kThreadPixels; ++p) {
      const int pixel = place.pixel + p * place.pixels;
      bases[p] = pixel < pixels ? pixel / item.x.outputs * tiling.pitch + pixel % item.x.outputs : 0;
    }
    Sums sums = {};
    if (step.stage && pixels > 0) {
      write_tables(shifts, offsets, min(tiling.chunk, item.in_channels), item, layout, layer);
      __syncthreads();
    }
    for (int first = 0; first < item.in_channels && taps > 0 && pixels > 0; first += tiling.chunk) {
      const int staged = min(tiling.chunk, item.in_channels - first);
      const int terms = staged * taps;
      if (step.stage) stage_weights(weights, log_width, offsets, terms, layer, item, first);
      stage_window(
          window, layout, tiling.log_window_lanes, item.y, item.x,
          step.in + static_cast<int64_t>(item.group * item.in_channels + first) * item.in_height * item.in_width,
          item.in_height, item.in_width, staged, step.scale);
      __syncthreads();
      const int share = (terms + place.splits - 1) / place.splits;
      add_terms(sums, weights + place.channel, 1 << log_width, shifts, window, bases, min(place.split * share, terms),
                min((place.split + 1) * share, terms));
      __syncthreads();
    }
    join_splits(sums, place, window);
    if (place.split == 0) {
      write_sums(sums, place, item, step.out);
      square += sum_of_squares(reinterpret_cast<const float (&)[kThreadSums]>(sums));
    }
  }
  return square;
}

}  // namespace gloro_fast::cuda
