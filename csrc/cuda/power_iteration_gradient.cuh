// The gradient of sigma times its cotangent: g u v^T for a dense layer, for a convolution the weight gradient at
// input v and output gradient g u. Every element is written once, by one thread.
#pragma once

#include "dialect.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_tile.cuh"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// Writes rows [item's 32) x columns [item's strip of 16 bytes a thread).
GLORO_FAST_DEVICE void write_dense_gradient(const LayerPlan& layer, int item, float factor, float* memory) {
  constexpr int kMost = 8;
  const int rows = layer.group_outputs, columns = layer.group_inputs;
  const int unit = layer.type == WeightType::float32 ? 4 : 8;
  const int strips = layer.forward.entry_tiles;
  const int column = (item % strips * kThreads + static_cast<int>(threadIdx.x)) * unit;
  const int first_row = item / strips * kGradientRows, end_row = min(first_row + kGradientRows, rows);
  const int count = min(unit, columns - column);
  static_assert(kGradientRows <= kThreads);
  if (first_row + static_cast<int>(threadIdx.x) < end_row) memory[threadIdx.x] = layer.u[first_row + threadIdx.x];
  __syncthreads();
  if (count <= 0) return;
  const bool aligned = columns % unit == 0 && reinterpret_cast<uintptr_t>(layer.weight) % 16 == 0;
  float v[kMost];
#pragma unroll
  for (int i = 0; i < kMost; ++i) v[i] = i < count ? layer.v[column + i] * factor : 0.0f;
  for (int row = first_row; row < end_row; ++row) {
    const float u = memory[row - first_row];
    const int64_t index = static_cast<int64_t>(row) * columns + column;
    if (!aligned) {
#pragma unroll
      for (int i = 0; i < kMost; ++i)
        if (i < count) store_weight(layer.weight, layer.type, index + i, u * v[i]);
    } else if (layer.type == WeightType::float32) {
      *reinterpret_cast<float4*>(static_cast<float*>(layer.weight) + index) =
          make_float4(u * v[0], u * v[1], u * v[2], u * v[3]);
    } else {
      unsigned pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float low = u * v[2 * i], high = u * v[2 * i + 1];
        const bool bfloat = layer.type == WeightType::bfloat16;
        pairs[i] = (bfloat ? narrow_bfloat16(low) : narrow_float16(low)) |
                   static_cast<unsigned>(bfloat ? narrow_bfloat16(high) : narrow_float16(high)) << 16;
      }
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(layer.weight) + index) =
          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
}

// An item is a tile of output channels and of entries (input channel, tap) of a group. Its terms are pixels of the
// output, its staged weights u, its bases the entries: the same inner loop as a convolution's.
GLORO_FAST_DEVICE void write_conv_gradient(const LayerPlan& layer, int index, float factor, float* memory) {
  const Tiling& tiling = layer.forward;
  const Place place(tiling);
  const int log_width = 3 + tiling.log_channel_lanes;
  const int taps_x = layer.width.kernel, taps = layer.height.kernel * taps_x;
  const int all_entries = layer.group_inputs * taps;
  const int first_entry = index % tiling.entry_tiles * place.tile_pixels;
  index /= tiling.entry_tiles;
  const int first_output = index % tiling.channel_tiles << log_width, group = index / tiling.channel_tiles;
  const int first_input = first_entry / taps;
  const int inputs = min((first_entry + place.tile_pixels - 1) / taps, layer.group_inputs - 1) - first_input + 1;
  const int outputs = min(1 << log_width, layer.group_outputs - first_output);
  const WindowLayout layout{layer.height.stride, layer.width.stride, tiling.rows, tiling.pitch};
  const int64_t out_plane = static_cast<int64_t>(layer.height.output) * layer.width.output;
  const float* const u = layer.u + (static_cast<int64_t>(group) * layer.group_outputs + first_output) * out_plane;
  const float* const v = layer.v + (static_cast<int64_t>(group) * layer.group_inputs + first_input) *
                                       layer.height.input * layer.width.input;

  int* const shifts = reinterpret_cast<int*>(memory + tiling.tables);
  float* const staged = memory + tiling.weights;
  float* const window = memory + tiling.window;
  const int pixels = tiling.tile_height * tiling.tile_width;
  for (int pixel = static_cast<int>(threadIdx.x); pixel < pixels; pixel += kThreads)
    shifts[pixel] = 4 * (pixel / tiling.tile_width * tiling.pitch + pixel % tiling.tile_width);
  int bases[kThreadPixels];
#pragma unroll
  for (int p = 0; p < kThreadPixels; ++p) {
    const int entry = first_entry + place.pixel + p * place.pixels;
    const int tap = entry % taps;
    bases[p] = entry < all_entries
                   ? 4 * ((entry / taps - first_input) * layout.channel() +
                          layout.at(tap / taps_x * layer.height.dilation, tap % taps_x * layer.width.dilation))
                   : 0;
  }
  Sums<kThreadPixels> sums = {};
  for (int tile = 0; tile < tiling.tiles_y * tiling.tiles_x; ++tile) {
    const int start_y = tile / tiling.tiles_x * tiling.tile_height, start_x = tile % tiling.tiles_x * tiling.tile_width;
    AxisView y = view_forward(layer.height, start_y, tiling.tile_height);
    AxisView x = view_forward(layer.width, start_x, tiling.tile_width);
    // Outputs beyond the picture count with u = 0, and the window must hold numbers for them.
    y.extent += (tiling.tile_height - y.outputs) * layer.height.stride;
    x.extent += (tiling.tile_width - x.outputs) * layer.width.stride;
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < pixels << log_width; i += kThreads) {
      const int channel = i / pixels, pixel = i % pixels;
      const int py = pixel / tiling.tile_width, px = pixel % tiling.tile_width;
      const bool inside = channel < outputs && py < y.outputs && px < x.outputs;
      const int64_t from = channel * out_plane + (start_y + py) * layer.width.output + start_x + px;
      copy_4_bytes(staged + (pixel << log_width) + channel, u + (inside ? from : 0), inside);
    }
    start_window(window, layout, tiling.log_window_lanes, y, x, v, layer.height.input, layer.width.input, inputs);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    const int share = (pixels + place.splits - 1) / place.splits;
    add_terms(sums, staged + place.channel, 1 << log_width, shifts, window, bases, min(place.split * share, pixels),
              min((place.split + 1) * share, pixels));
    __syncthreads();
  }
  const Part<kThreadPixels> part(place);
  join_splits(sums, place, part, window);
  int64_t at[kThreadPixels];  // negative beyond the entries
#pragma unroll
  for (int p = 0; p < kThreadPixels; ++p) {
    const int entry = first_entry + place.pixel + (part.pixel + p) * place.pixels, tap = entry % taps;
    at[p] = entry < all_entries ? static_cast<int64_t>(entry / taps) * layer.weight_strides[1] +
                                      tap / taps_x * layer.weight_strides[2] + tap % taps_x * layer.weight_strides[3]
                                : -1;
  }
  const int64_t first = static_cast<int64_t>(group) * layer.group_outputs + first_output + place.channel + part.channel;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int k = 0; k < Part<kThreadPixels>::kHalf; ++k) {
      if (k >= part.count) break;
      const int c = half * (kThreadChannels / 2) + k / kThreadPixels, p = k % kThreadPixels;
      if (at[p] >= 0 && place.channel + part.channel + c < outputs)
        store_weight(layer.weight, layer.type, (first + c) * layer.weight_strides[0] + at[p], sums[c][p] * factor);
    }
}

}  // namespace gloro_fast::cuda
