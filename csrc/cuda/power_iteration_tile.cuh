// The inner part of every convolution kernel: 256 threads, each with 8 channels x 4 pixels of sums in registers.
//
// A sum runs over "terms". Term k of all channels is a row of staged weights, and of all pixels one constant shift in
// a staged window, so that stride, dilation, padding and transposition are all in the tables.
#pragma once

#include "dialect.cuh"
#include "power_iteration_item.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// Where the sums of this thread belong. Lanes lie along channels and pixels, warps along pixels and terms.
struct Place {
  int channel;        // the first of 8, within the tile
  int pixel, pixels;  // the first of 4, and the distance between them
  int tile_pixels;    // of all threads
  int split, splits;  // which share of the terms

  GLORO_FAST_DEVICE explicit Place(const Tiling& tiling) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    pixels = 32 >> tiling.log_channel_lanes;
    splits = 1 << tiling.log_split;
    channel = lane / pixels * kThreadChannels;
    split = warp % splits;
    pixel = warp / splits * (pixels * kThreadPixels) + lane % pixels;
    tile_pixels = kWarps / splits * pixels * kThreadPixels;
  }
};

using Sums = float[kThreadChannels][kThreadPixels];

// Adds the terms [begin, end): weights lie [term][channel], `width` channels to a row.
GLORO_FAST_DEVICE void add_terms(Sums& sums, const float* weights, int width, const int* shifts, const float* window,
                                 const int (&bases)[kThreadPixels], int begin, int end) {
#pragma unroll 2
  for (int k = begin; k < end; ++k) {
    const int shift = shifts[k];
    float x[kThreadPixels], w[kThreadChannels];
#pragma unroll
    for (int p = 0; p < kThreadPixels; ++p) x[p] = window[bases[p] + shift];
#pragma unroll
    for (int c = 0; c < kThreadChannels; c += 4) {
      const float4 four = *reinterpret_cast<const float4*>(weights + k * width + c);
      w[c] = four.x, w[c + 1] = four.y, w[c + 2] = four.z, w[c + 3] = four.w;
    }
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c)
#pragma unroll
      for (int p = 0; p < kThreadPixels; ++p) sums[c][p] += w[c] * x[p];
  }
}

// Adds up the sums of the warps that share them, in pairs; those of split 0 have the result. Uses 4,096 words.
GLORO_FAST_DEVICE void join_splits(Sums& sums, const Place& place, float* memory) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int half = place.splits / 2; half > 0; half /= 2) {
    float* mine = memory + (warp / place.splits * half + place.split % half) * (kThreadSums * 32) + lane;
    if (place.split >= half && place.split < 2 * half) {
#pragma unroll
      for (int i = 0; i < kThreadSums; ++i) mine[i * 32] = sums[i / kThreadPixels][i % kThreadPixels];
    }
    __syncthreads();
    if (place.split < half) {
#pragma unroll
      for (int i = 0; i < kThreadSums; ++i) sums[i / kThreadPixels][i % kThreadPixels] += mine[i * 32];
    }
    __syncthreads();
  }
}

// Where a window position lies in shared memory: one plane for each position mod step, so that neighbouring outputs
// always read neighbouring words.
struct WindowLayout {
  int step_y, step_x, rows, pitch;

  GLORO_FAST_DEVICE int channel() const { return step_y * step_x * rows * pitch; }
  GLORO_FAST_DEVICE int at(int y, int x) const {
    return (y % step_y * step_x + x % step_x) * (rows * pitch) + y / step_y * pitch + x / step_x;
  }
};

// Stages `channels` channels of a picture times `scale`, with zeros where the window reaches beyond it.
GLORO_FAST_DEVICE void stage_window(float* window, const WindowLayout& layout, int log_lanes, const AxisView& y, const AxisView& x,
                                    const float* picture, int height, int width, int channels, Scale scale) {
  const int positions = y.extent * x.extent;
  const int lanes = 1 << log_lanes;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_channel = thread >> log_lanes, channel_step = kThreads >> log_lanes;
  const int word_step = channel_step * layout.channel(), pixel_step = channel_step * height * width;
  for (int position = thread & (lanes - 1); position < positions; position += lanes) {
    const int row = position / x.extent, column = position % x.extent;
    const int iy = y.origin + row, ix = x.origin + column;
    const bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
    int to = layout.at(row, column) + first_channel * layout.channel();
    int from = (inside ? iy * width + ix : 0) + first_channel * height * width;
    for (int first = first_channel; first < channels; first += kWindowLoads * channel_step) {
      float values[kWindowLoads];
#pragma unroll
      for (int load = 0; load < kWindowLoads; ++load) {
        values[load] = 0;
        if (inside && first + load * channel_step < channels) values[load] = picture[from + load * pixel_step];
      }
#pragma unroll
      for (int load = 0; load < kWindowLoads; ++load)
        if (first + load * channel_step < channels) window[to + load * word_step] = values[load] * scale;
      to += kWindowLoads * word_step, from += kWindowLoads * pixel_step;
    }
  }
}

}  // namespace gloro_fast::cuda
