// The gradient of a wide convolution on tensor cores: output channels x pixels x entries (input channel, tap). Every
// product is exact, three for one: u and v are what they are, and the gradient is one product where sigma took eleven.
#pragma once

#include "dialect.cuh"
#include "power_iteration_fragments.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// What an entry adds to the place of an output pixel in v, along both axes and in all, and where its gradient lies.
struct alignas(16) GradientEntry {
  int y, x, offset, element;
};

// A tile of the gradient: `rows` output channels x `columns` entries of a group.
struct GradientTile {
  int rows, columns;
  int first_row, first_column, end_row, end_column;
  const float *u, *v;  // of the group
  int64_t element;     // of the group's first output channel

  GLORO_FAST_DEVICE GradientTile(const LayerPlan& layer, int index) {
    const Tiling& tiling = layer.forward;
    columns = kThreadChannels << tiling.log_channel_lanes;
    rows = kWarps * kWarpPixels >> (tiling.log_channel_lanes - 3 + tiling.log_split);
    first_column = index % tiling.entry_tiles * columns;
    index /= tiling.entry_tiles;
    first_row = index % tiling.channel_tiles * rows;
    const int group = index / tiling.channel_tiles;
    end_row = min(first_row + rows, layer.group_outputs);
    end_column = min(first_column + columns, layer.group_inputs * layer.height.kernel * layer.width.kernel);
    u = layer.u + static_cast<int64_t>(group) * layer.group_outputs * layer.height.output * layer.width.output;
    v = layer.v + static_cast<int64_t>(group) * layer.group_inputs * layer.height.input * layer.width.input;
    element = static_cast<int64_t>(group) * layer.group_outputs * layer.weight_strides[0];
  }
};

GLORO_FAST_DEVICE void write_entries(GradientEntry* entries, const LayerPlan& layer, const GradientTile& tile) {
  const int taps_x = layer.width.kernel, taps = layer.height.kernel * taps_x;
  for (int i = static_cast<int>(threadIdx.x); i < tile.end_column - tile.first_column; i += kThreads) {
    const int input = (tile.first_column + i) / taps, tap = (tile.first_column + i) % taps;
    const int y = tap / taps_x * layer.height.dilation - layer.height.padding;
    const int x = tap % taps_x * layer.width.dilation - layer.width.padding;
    entries[i] = {y, x, (input * layer.height.input + y) * layer.width.input + x,
                  input * layer.weight_strides[1] + tap / taps_x * layer.weight_strides[2] +
                      tap % taps_x * layer.weight_strides[3]};
  }
}

// Where a number lies in a staged matrix of pixel x channel, units of 16 bytes swapped so that the eight lanes which a
// load serves at once, four pixels and two units, meet no bank twice.
GLORO_FAST_DEVICE int staged_at(int pixel, int channel, int channels) {
  return pixel * channels + 4 * ((channel >> 2) ^ ((pixel & 3) << 1)) + (channel & 3);
}

// Starts the copies of some pixels: of u as pixel x row, then of v as pixel x column. Of a warp's lanes eight follow
// the pixels, which lie side by side in memory, and four the channels.
GLORO_FAST_DEVICE void stage_pixels(float* to, const LayerPlan& layer, const GradientTile& tile,
                                    const GradientEntry* entries, int first_pixel) {
  const int thread = static_cast<int>(threadIdx.x), octets = layer.forward.chunk >> 3;
  const int of_stage = (thread & 7) + 8 * (thread >> 5 & (octets - 1));
  const int step = kThreads / layer.forward.chunk;
  const int first = (thread >> 3 & 3) + 4 * ((thread >> 5) / octets);
  const int pixel = first_pixel + of_stage, width = layer.width.output, pixels = layer.height.output * width;
  const bool inside = pixel < pixels;
  const float* u = tile.u + static_cast<int64_t>(tile.first_row + first) * pixels + pixel;
  for (int row = first; row < tile.rows; row += step, u += static_cast<int64_t>(step) * pixels) {
    const bool present = inside && tile.first_row + row < tile.end_row;
    copy_4_bytes(to + staged_at(of_stage, row, tile.rows), present ? u : tile.u, present);
  }
  to += layer.forward.chunk * tile.rows;
  const int y = pixel / width * layer.height.stride, x = pixel % width * layer.width.stride;
  const float* const v = tile.v + y * layer.width.input + x;
  for (int column = first; column < tile.columns; column += step) {
    bool present = inside && tile.first_column + column < tile.end_column;
    const GradientEntry entry = present ? entries[column] : GradientEntry{};
    const int iy = y + entry.y, ix = x + entry.x;
    present = present && iy >= 0 && iy < layer.height.input && ix >= 0 && ix < layer.width.input;
    copy_4_bytes(to + staged_at(of_stage, column, tile.columns), present ? v + entry.offset : tile.v, present);
  }
}

// Adds eight pixels.
GLORO_FAST_DEVICE void add_pixels(WarpSums& sums, const float* u, const float* v, const WarpPlace& place, int rows,
                                  int columns) {
  float a[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half)
    load_four(a[half], u + staged_at(place.t + 4 * half, place.row + 4 * place.g, rows));
#pragma unroll
  for (int n = 0; n < kColumnTiles; n += 4) {
    float b[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      load_four(b[half], v + staged_at(place.t + 4 * half, place.column + 8 * n + 4 * place.g, columns));
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m)
        add_terms_of_tile<true>(sums[m][n + j], a[0][2 * m], a[0][2 * m + 1], a[1][2 * m], a[1][2 * m + 1], b[0][j],
                                b[1][j]);
  }
}

// Rows (m, g) and (m, g + 8) of the fragments are the output channels 4 g + 2 m and 4 g + 2 m + 1 here.
GLORO_FAST_DEVICE void write_tile(const WarpSums& sums, const WarpPlace& place, const LayerPlan& layer,
                                  const GradientTile& tile, const GradientEntry* entries, float factor) {
  const bool fours = layer.type == WeightType::float32 && layer.weight_strides[0] % 4 == 0 &&
                     layer.weight_strides[1] == layer.height.kernel * layer.width.kernel &&
                     (layer.height.kernel == 1 || layer.weight_strides[2] == layer.width.kernel) &&
                     (layer.width.kernel == 1 || layer.weight_strides[3] == 1) &&
                     reinterpret_cast<uintptr_t>(layer.weight) % 16 == 0;
#pragma unroll
  for (int i = 0; i < 2 * kRowTiles; ++i) {
    const int row = tile.first_row + place.row + 4 * place.g + i;
    if (row >= tile.end_row) continue;
    const int64_t element = tile.element + static_cast<int64_t>(row) * layer.weight_strides[0];
#pragma unroll
    for (int half = 0; half < kColumnTiles / 2; ++half) {
      const float (&tiles)[kColumnTiles][4] = sums[i / 2];
      const int first = half / 2 * 4, of = i % 2 * 2 + half % 2;
      const int column = place.column + half / 2 * 32 + 8 * place.t + half % 2 * 4;
      const int left = tile.end_column - tile.first_column - column;
      if (fours && left >= 4) {
        *reinterpret_cast<float4*>(static_cast<float*>(layer.weight) + element + tile.first_column + column) =
            make_float4(tiles[first][of] * factor, tiles[first + 1][of] * factor, tiles[first + 2][of] * factor,
                        tiles[first + 3][of] * factor);
        continue;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < left)
          store_weight(layer.weight, layer.type, element + entries[column + j].element, tiles[first + j][of] * factor);
    }
  }
}

GLORO_FAST_DEVICE void write_gemm_gradient(const LayerPlan& layer, int index, float factor, float* memory) {
  const Tiling& tiling = layer.forward;
  const GradientTile tile(layer, index);
  GradientEntry* const entries = reinterpret_cast<GradientEntry*>(memory + tiling.tables);
  float* const staged = memory + tiling.weights;
  const int stage = tiling.chunk * (tile.rows + tile.columns);
  const int steps = (layer.height.output * layer.width.output + tiling.chunk - 1) / tiling.chunk;
  write_entries(entries, layer, tile);
  __syncthreads();
  const int stages = tiling.stages, ahead = stages - 1;
  for (int i = 0; i < ahead; ++i) {
    if (i < steps) stage_pixels(staged + i * stage, layer, tile, entries, i * tiling.chunk);
    commit_copies();
  }
  WarpSums sums = {};
  const WarpPlace place(tiling);
  for (int i = 0; i < steps; ++i) {
    wait_for_step(ahead);
    __syncthreads();  // for the copies of the others, and until they no longer read what the next copies overwrite
    const int next = i + ahead;
    if (next < steps) stage_pixels(staged + next % stages * stage, layer, tile, entries, next * tiling.chunk);
    commit_copies();
    const float* const u = staged + i % stages * stage;
    const float* const v = u + tiling.chunk * tile.rows;
    for (int octet = place.split; octet < tiling.chunk / 8; octet += place.splits)
      add_pixels(sums, u + 8 * octet * tile.rows, v + 8 * octet * tile.columns, place, tile.rows, tile.columns);
  }
  __syncthreads();
  join_splits(sums, place, staged);
  if (place.split == 0) write_tile(sums, place, layer, tile, entries, factor);
}

}  // namespace gloro_fast::cuda
