// A wide convolution or its transpose applied to one picture on tensor cores: pixels x (taps x channels) x channels.
//
// Windows of the input and weights come in steps, a slice of channels for each warp that shares a sum and some taps at
// a time, by copies that run while the steps before are computed. The factors are cut to TF32 by the hardware: that
// scales an iterate, whose length does not count, and turns it by some 4e-4 (rounding would by as much). The
// application that gives sigma is exact.
#pragma once

#include "dialect.cuh"
#include "power_iteration_fragments.cuh"
#include "power_iteration_item.cuh"
#include "power_iteration_pack.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_tile.cuh"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// Adds a slice of channels at one tap. `window` + `pixels` are the lane's four channels of its pixels, `weights` a
// block of 64 output channels x the slice, or transposed the slice x 64 channels, from where the lane begins. Blocks
// are staged so that the eight lanes which a load serves at once meet no bank twice.
template <bool kTransposed, bool kExact>
GLORO_FAST_DEVICE void add_slice(WarpSums& sums, const float* window, const int (&pixels)[2 * kRowTiles],
                                 const float* weights, int odd, float scale) {
  float a[2 * kRowTiles][4];
#pragma unroll
  for (int p = 0; p < 2 * kRowTiles; ++p) {
    load_four(a[p], window + pixels[p]);
#pragma unroll
    for (int k = 0; k < 4; ++k) a[p][k] *= scale;
  }
  const auto add = [&](int n, int k, float b0, float b1) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
      add_terms_of_tile<kExact>(sums[m][n], a[2 * m][k], a[2 * m + 1][k], a[2 * m][k + 1], a[2 * m + 1][k + 1], b0, b1);
  };
#pragma unroll
  for (int n = 0; n < kColumnTiles; n += 4) {
#pragma unroll
    for (int i = 0; i < 4; i += kTransposed ? 2 : 1) {
      if (kTransposed) {  // two channels of the slice for four tiles
        float b0[4], b1[4];
        load_four(b0, weights + i * kWarpChannels + 8 * n);
        load_four(b1, weights + (i + 1) * kWarpChannels + 8 * n);
#pragma unroll
        for (int j = 0; j < 4; ++j) add(n + j, i, b0[j], b1[j]);
      } else {  // four channels for a tile
        float b[4];
        load_four(b, weights + (8 * n + i / 2 * 2) * kSlice + (i % 2 == 0 ? odd : kSlice - odd));
        add(n + i, 0, b[0], b[1]);
        add(n + i, 2, b[2], b[3]);
      }
    }
  }
}

// What the threads of a block need to know of an item. In shared memory in front of the tables: registers are full of
// sums.
struct GemmItem {
  const float* in;                // the group's first channel
  const float* weights;           // the group's
  int in_channels, out_channels;  // of a group, zeros included
  int weight_row;                 // from one output channel to the next
  int channel;                    // the tile's first
  int log_channels, log_split;
  int pixels, positions, taps;
  int parts, steps;  // of the taps, and all
  int step_taps;
  int tap_words;       // of a staged tap
  int staged, window;  // where the stages lie
  int transposed, exact;
  float scale;  // of the input
};
static_assert(sizeof(GemmItem) <= 4 * kGemmItemWords);

// A slice of channels for each split and some taps from `first` on; the window comes with the first of them.
struct alignas(8) GemmStep {
  int16_t chunk, first, taps;
  int8_t window, stage;
};

// An item; its steps; of each pixel of the tile where its window begins among the positions; of each staged position
// where it lies in the input, -1 for a zero; of each tap its shift among the positions and where its weights lie.
struct GemmTables {
  GemmItem& item;
  GemmStep* steps;

  GLORO_FAST_DEVICE explicit GemmTables(float* memory)
      : item(*reinterpret_cast<GemmItem*>(memory)), steps(reinterpret_cast<GemmStep*>(memory + kGemmItemWords)) {}
  GLORO_FAST_DEVICE int* pixels() const { return reinterpret_cast<int*>(steps + item.steps); }
  GLORO_FAST_DEVICE int* origins() const { return pixels() + item.pixels; }
  GLORO_FAST_DEVICE int* shifts() const { return origins() + item.positions; }
  GLORO_FAST_DEVICE int* sources() const { return shifts() + item.taps; }
};

// Starts the copies of a step. Of a window: split x position x channel; of weights: tap x split x (channel x slice, or
// transposed slice x channel), units of 16 bytes swapped as add_slice reads them.
GLORO_FAST_DEVICE void stage_step(float* memory, int number) {
  const GemmTables tables(memory);
  const GemmItem& item = tables.item;
  const int splits = 1 << item.log_split;
  const GemmStep step = tables.steps[number];
  const int first_channel = step.chunk * kSlice << item.log_split;
  if (step.first == 0) {
    float* const to = memory + item.window + step.window * (item.positions * kSlice << item.log_split);
    const int* const origins = tables.origins();
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < 4 * item.positions; i += kThreads) {
      const int origin = origins[i >> 2];
      int channel = first_channel;
      float* at = to + 4 * i;
#pragma unroll 1
      for (int split = 0; split < splits; ++split, channel += kSlice, at += item.positions * kSlice) {
        const bool present = origin >= 0 && channel < item.in_channels;
        copy_16_bytes(at, item.in + (present ? origin + channel + (i & 3) * 4 : 0), present);
      }
    }
  }
  float* const to = memory + item.staged + step.stage * (item.step_taps * item.tap_words);
  const int* const sources = tables.sources() + step.first;
  const int log_row = item.transposed ? 4 : 2;
#pragma unroll 1
  for (int unit = static_cast<int>(threadIdx.x); unit < 4 << item.log_channels; unit += kThreads) {
    // A block of 64 channels has 256 units.
    const int of_block = unit & 255, block = unit >> 8;
    const int row = of_block >> log_row, column = 4 * (of_block & ((1 << log_row) - 1));
    float* at = to + 1024 * block + 4 * (of_block ^ (item.transposed ? row / 4 * 2 : row & 4));
    const int in_step = item.transposed ? item.weight_row : 1, out_step = item.transposed ? 1 : item.weight_row;
    const int in = first_channel + (item.transposed ? row : column);
    const int out = item.channel + kWarpChannels * block + (item.transposed ? column : row);
#pragma unroll 1
    for (int tap = 0; tap < step.taps; ++tap) {
      int channel = in;
#pragma unroll 1
      for (int split = 0; split < splits; ++split, channel += kSlice, at += kSlice << item.log_channels) {
        const bool present = channel < item.in_channels && out < item.out_channels;
        copy_16_bytes(at, item.weights + (present ? sources[tap] + channel * in_step + out * out_step : 0), present);
      }
    }
  }
}

GLORO_FAST_DEVICE GemmItem describe_item(const LayerPlan& layer, const Tiling& tiling, const Step& step,
                                         const ConvItem& item, bool exact) {
  const Packed packed(layer);
  GemmItem gemm;
  gemm.exact = exact;
  gemm.transposed = step.transposed;
  gemm.in_channels = step.transposed ? packed.outputs : packed.inputs;
  gemm.out_channels = step.transposed ? packed.inputs : packed.outputs;
  gemm.weight_row = packed.inputs;
  gemm.in = step.in + item.group * gemm.in_channels;
  gemm.weights = packed.weights + static_cast<int64_t>(item.group) * layer.height.kernel * layer.width.kernel *
                                      packed.inputs * packed.outputs;
  gemm.channel = item.channel;
  gemm.log_channels = 3 + tiling.log_channel_lanes, gemm.log_split = tiling.log_split;
  gemm.pixels = kWarps * kWarpPixels >> (gemm.log_split + tiling.log_channel_lanes - 3);
  gemm.positions = item.y.step * item.x.step * tiling.rows * tiling.pitch;
  gemm.taps = item.y.taps * item.x.taps;
  gemm.step_taps = tiling.step_taps;
  gemm.parts = (gemm.taps + tiling.step_taps - 1) / tiling.step_taps;
  const int chunk = kSlice << tiling.log_split;
  gemm.steps = item.y.outputs * item.x.outputs > 0 ? (gemm.in_channels + chunk - 1) / chunk * gemm.parts : 0;
  gemm.tap_words = chunk << gemm.log_channels;
  // In one number; a vector of length 1e-39 keeps some length other than 1.
  gemm.scale = fminf(step.scale.coarse * step.scale.fine, 0x1p126f);
  gemm.staged = tiling.weights, gemm.window = tiling.window;
  return gemm;
}

GLORO_FAST_DEVICE void write_gemm_tables(const GemmTables& tables, const LayerPlan& layer, const Tiling& tiling,
                                         const ConvItem& item) {
  const GemmItem& gemm = tables.item;
  const int thread = static_cast<int>(threadIdx.x);
  const WindowLayout layout{item.y.step, item.x.step, tiling.rows, tiling.pitch};
  for (int i = thread; i < gemm.steps; i += kThreads) {
    const int chunk = i / gemm.parts, first = i % gemm.parts * gemm.step_taps;
    tables.steps[i] = {static_cast<int16_t>(chunk), static_cast<int16_t>(first),
                       static_cast<int16_t>(min(gemm.step_taps, gemm.taps - first)),
                       static_cast<int8_t>(chunk % tiling.windows), static_cast<int8_t>(i % tiling.stages)};
  }
  for (int i = thread; i < gemm.pixels; i += kThreads) {
    const bool inside = i < item.y.outputs * item.x.outputs;
    tables.pixels()[i] = inside ? kSlice * (i / item.x.outputs * layout.pitch + i % item.x.outputs) : 0;
  }
  const int plane = layout.rows * layout.pitch, pixel_words = layer.groups * gemm.in_channels;
  for (int i = thread; i < gemm.positions; i += kThreads) {
    const int of_plane = i % plane, phase = i / plane;
    const int row = of_plane / layout.pitch * layout.step_y + phase / layout.step_x;
    const int column = of_plane % layout.pitch * layout.step_x + phase % layout.step_x;
    const int iy = item.y.origin + row, ix = item.x.origin + column;
    const bool inside = row < item.y.extent && column < item.x.extent && iy >= 0 && iy < item.in_height && ix >= 0 &&
                        ix < item.in_width;
    tables.origins()[i] = inside ? (iy * item.in_width + ix) * pixel_words : -1;
  }
  for (int j = thread; j < gemm.taps; j += kThreads) {
    const int jy = j / item.x.taps, jx = j % item.x.taps;
    tables.shifts()[j] =
        kSlice * layout.at(item.y.shift + jy * item.y.shift_step, item.x.shift + jx * item.x.shift_step);
    const int tap = (item.y.tap + jy * item.y.tap_step) * layer.width.kernel + item.x.tap + jx * item.x.tap_step;
    tables.sources()[j] = tap * gemm.in_channels * gemm.out_channels;
  }
}

// Adds the warp's share of a step.
template <bool kTransposed, bool kExact>
GLORO_FAST_DEVICE void add_step(WarpSums& sums, const float* memory, int number, const Tiling& tiling) {
  const GemmTables tables(const_cast<float*>(memory));
  const GemmItem& item = tables.item;
  const GemmStep step = tables.steps[number];
  const WarpPlace place(tiling);
  int pixels[2 * kRowTiles];
#pragma unroll
  for (int p = 0; p < 2 * kRowTiles; ++p) pixels[p] = tables.pixels()[place.row + 8 * p + place.g];
  const float* const window =
      memory + item.window + 4 * place.t + ((step.window << item.log_split) + place.split) * (item.positions * kSlice);
  const float* weights =
      memory + item.staged + step.stage * (item.step_taps * item.tap_words) +
      (place.split * kSlice << item.log_channels) + place.column * kSlice +
      (kTransposed ? 4 * place.t * kWarpChannels + 4 * (place.g ^ (2 * place.t)) : 4 * place.g * kSlice + 4 * place.t);
  const int odd = (place.g & 1) * kSlice;
  const int* const shifts = tables.shifts() + step.first;
#pragma unroll 1
  for (int tap = 0; tap < step.taps; ++tap, weights += item.tap_words)
    add_slice<kTransposed, kExact>(sums, window + shifts[tap], pixels, weights, odd, item.scale);
}

// Writes the sums of pixels within the picture and clears the others; columns beyond the channels are zero.
GLORO_FAST_DEVICE void write_packed(WarpSums& sums, const WarpPlace& place, const ConvItem& item, float* out,
                                    int out_channels, int pixel_words) {
  const int pixels = item.y.outputs * item.x.outputs;
#pragma unroll
  for (int p = 0; p < 2 * kRowTiles; ++p) {
    const int pixel = place.row + 8 * p + place.g;
    const bool inside = pixel < pixels;
    const int oy = inside ? item.y.output + pixel / item.x.outputs * item.y.output_step : 0;
    const int ox = inside ? item.x.output + pixel % item.x.outputs * item.x.output_step : 0;
    float* const to = out + static_cast<int64_t>(oy * item.out_width + ox) * pixel_words + item.group * out_channels;
#pragma unroll
    for (int half = 0; half < kColumnTiles / 2; ++half) {
      float (&tiles)[kColumnTiles][4] = sums[p / 2];
      const int first = half / 2 * 4, of = p % 2 * 2 + half % 2;
      const int channel = item.channel + place.column + half / 2 * 32 + 8 * place.t + half % 2 * 4;
      if (!inside) {
#pragma unroll
        for (int j = 0; j < 4; ++j) tiles[first + j][of] = 0;
      } else if (channel < out_channels) {
        *reinterpret_cast<float4*>(to + channel) =
            make_float4(tiles[first][of], tiles[first + 1][of], tiles[first + 2][of], tiles[first + 3][of]);
      }
    }
  }
}

// Writes out = A (in * scale), or A^T of it, packed; returns this thread's part of the sum of its squares. The block's
// first item has been found.
GLORO_FAST_DEVICE double apply_gemm(const LayerPlan& layer, const Tiling& tiling, Board& board, float* memory,
                                    bool exact) {
  const ConvItem& item = board.item;
  const GemmTables tables(memory);
  const GemmItem& gemm = tables.item;

  double square = 0;
  for (int index = first_item(layer); index < tiling.items; index += layer.blocks) {
    if (threadIdx.x == 0) {
      if (index != first_item(layer)) board.item = find_item(layer, tiling, board.step.transposed, index);
      tables.item = describe_item(layer, tiling, board.step, item, exact);
    }
    __syncthreads();
    WarpSums sums = {};
    if (gemm.steps > 0) {
      write_gemm_tables(tables, layer, tiling, item);
      __syncthreads();
      const int ahead = tiling.stages - 1;
      for (int i = 0; i < ahead; ++i) {
        if (i < gemm.steps) stage_step(memory, i);
        commit_copies();
      }
      for (int i = 0; i < gemm.steps; ++i) {
        wait_for_step(ahead);
        __syncthreads();  // for the copies of the others, and until they no longer read what the next copies overwrite
        if (i + ahead < gemm.steps) stage_step(memory, i + ahead);
        commit_copies();
        if (gemm.transposed)
          add_step<true, false>(sums, memory, i, tiling);
        else if (gemm.exact)
          add_step<false, true>(sums, memory, i, tiling);
        else
          add_step<false, false>(sums, memory, i, tiling);
      }
    }
    __syncthreads();
    const WarpPlace place(tiling);
    join_splits(sums, place, memory + tiling.weights);
    if (place.split == 0) {
      write_packed(sums, place, item, board.step.out, gemm.out_channels, layer.groups * gemm.out_channels);
      square += sum_of_squares(reinterpret_cast<const float (&)[kWarpSums]>(sums));
    }
    __syncthreads();  // until nobody reads the item
  }
  return square;
}

}  // namespace gloro_fast::cuda
