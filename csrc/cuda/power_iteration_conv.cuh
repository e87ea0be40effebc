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
    shifts[k] = 4 * (channel * layout.channel() +
                     layout.at(item.y.shift + jy * item.y.shift_step, item.x.shift + jx * item.x.shift_step));
    offsets[k] = channel * item.in_stride + (item.y.tap + jy * item.y.tap_step) * layer.weight_strides[2] +
                 (item.x.tap + jx * item.x.tap_step) * layer.weight_strides[3];
  }
}

// Stages the weights of `terms` terms and a tile of channels as [term][channel]. Eight lanes follow the terms, which
// mostly lie side by side in memory, and four the channels, so that a store meets no bank more than twice. Copies must
// be waited for.
GLORO_FAST_DEVICE void stage_weights(float* weights, int log_width, const int* offsets, int terms,
                                     const LayerPlan& layer, const ConvItem& item, int first_channel) {
  const int64_t first = static_cast<int64_t>(item.group) * layer.group_outputs * layer.weight_strides[0] +
                        static_cast<int64_t>(first_channel) * item.in_stride +
                        static_cast<int64_t>(item.channel) * item.out_stride;
  const int total = (terms + 7) / 8 * 8 << log_width;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < total; i += kThreads) {
    const int channel = i >> 3 & ((1 << log_width) - 1);
    const int k = i >> (log_width + 3) << 3 | (i & 7);
    if (k >= terms) continue;
    const bool present = channel < item.channels;
    const int64_t element = present ? first + offsets[k] + static_cast<int64_t>(channel) * item.out_stride : 0;
    float* const to = weights + (k << log_width) + channel;
    if (layer.type == WeightType::float32)
      copy_4_bytes(to, static_cast<const float*>(layer.weight) + element, present);
    else
      *to = present ? load_weight(layer.weight, layer.type, element) : 0.0f;
  }
}

// Writes the thread's part of the sums, where it lies within the picture, and clears what does not.
template <int kPixels>
GLORO_FAST_DEVICE void write_sums(Sums<kPixels>& sums, const Place& place, const Part<kPixels>& part,
                                  const ConvItem& item, float* out) {
  const int pixels = item.y.outputs * item.x.outputs;
  const int plane = item.out_height * item.out_width;
  const int first = (item.group * item.out_channels + item.channel + place.channel + part.channel) * plane;
  const int channels = item.channels - place.channel - part.channel;
  int at[kPixels];  // negative beyond the picture
#pragma unroll
  for (int p = 0; p < kPixels; ++p) {
    const int pixel = place.pixel + (part.pixel + p) * place.pixels;
    at[p] = pixel < pixels ? (item.y.output + pixel / item.x.outputs * item.y.output_step) * item.out_width +
                                 item.x.output + pixel % item.x.outputs * item.x.output_step
                           : -1;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int k = 0; k < Part<kPixels>::kHalf; ++k) {
      if (k >= part.count) break;
      const int c = half * (kThreadChannels / 2) + k / kPixels, p = k % kPixels;
      if (at[p] >= 0 && c < channels)
        out[first + c * plane + at[p]] = sums[c][p];
      else
        sums[c][p] = 0;
    }
}

// Writes out = A (in * scale), or A^T of it; returns this thread's part of the sum of its squares. The block's first
// item has been found.
template <int kPixels>
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
    Sums<kPixels> sums = {};
    if (step.stage && pixels > 0) {
      write_tables(shifts, offsets, min(tiling.chunk, item.in_channels), item, layout, layer);
      __syncthreads();
    }
    for (int first = 0; first < item.in_channels && taps > 0 && pixels > 0; first += tiling.chunk) {
      const int staged = min(tiling.chunk, item.in_channels - first);
      const int terms = staged * taps;
      if (step.stage) stage_weights(weights, log_width, offsets, terms, layer, item, first);
      const float* const picture =
          step.in + static_cast<int64_t>(item.group * item.in_channels + first) * item.in_height * item.in_width;
      start_window(window, layout, tiling.log_window_lanes, item.y, item.x, picture, item.in_height, item.in_width,
                   staged);
      commit_copies();
      int bases[kPixels];  // found while the copies are under way
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        const int pixel = place.pixel + p * place.pixels;
        bases[p] = pixel < pixels ? 4 * (pixel / item.x.outputs * tiling.pitch + pixel % item.x.outputs) : 0;
      }
      wait_for_copies<0>();
      scale_window(window, layout, tiling.log_window_lanes, item.y, item.x, item.in_height, item.in_width, staged,
                   step.scale);
      __syncthreads();
      const int share = (terms + place.splits - 1) / place.splits;
      add_terms(sums, weights + place.channel, 1 << log_width, shifts, window, bases, min(place.split * share, terms),
                min((place.split + 1) * share, terms));
      __syncthreads();
    }
    const Part<kPixels> part(place);
    join_splits(sums, place, part, window);
    write_sums(sums, place, part, item, step.out);
    square += sum_of_squares(reinterpret_cast<const float (&)[kThreadChannels * kPixels]>(sums));
  }
  return square;
}

}  // namespace gloro_fast::cuda
