// The inner part of every convolution kernel: 256 threads, each with 8 channels x 4 pixels of sums in registers, or
// x 2.
//
// A sum runs over "terms". Term k of all channels is a row of staged weights, and of all pixels one constant shift in
// a staged window, so that stride, dilation, padding and transposition are all in the tables. Shifts are in bytes, as
// are the pixels' own places: one addition makes an address of them.
#pragma once

#include "dialect.cuh"
#include "power_iteration_item.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// Where the sums of this thread belong. Lanes lie along channels and pixels, warps along pixels and terms.
struct Place {
  int channel;        // the first of 8, within the tile
  int pixel, pixels;  // the first of those of a thread, and the distance between them
  int tile_pixels;    // of all threads
  int split, splits;  // which share of the terms

  GLORO_FAST_DEVICE explicit Place(const Tiling& tiling) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    pixels = 32 >> tiling.log_channel_lanes;
    splits = 1 << tiling.log_split;
    channel = lane / pixels * kThreadChannels;
    split = warp % splits;
    pixel = warp / splits * (pixels * tiling.thread_pixels) + lane % pixels;
    tile_pixels = kWarps / splits * pixels * tiling.thread_pixels;
  }
};

template <int kPixels>
using Sums = float[kThreadChannels][kPixels];

// Adds the terms [begin, end): weights lie [term][channel], `width` channels to a row.
template <int kPixels>
GLORO_FAST_DEVICE void add_terms(Sums<kPixels>& sums, const float* weights, int width, const int* shifts,
                                 const float* window, const int (&bases)[kPixels], int begin, int end) {
#pragma unroll 4
  for (int k = begin; k < end; ++k) {
    const int shift = shifts[k];
    float x[kPixels], w[kThreadChannels];
#pragma unroll
    for (int p = 0; p < kPixels; ++p)
      x[p] = *reinterpret_cast<const float*>(reinterpret_cast<const char*>(window) + (bases[p] + shift));
#pragma unroll
    for (int c = 0; c < kThreadChannels; c += 4) {
      const float4 four = *reinterpret_cast<const float4*>(weights + k * width + c);
      w[c] = four.x, w[c + 1] = four.y, w[c + 2] = four.z, w[c + 3] = four.w;
    }
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c)
#pragma unroll
      for (int p = 0; p < kPixels; ++p) sums[c][p] += w[c] * x[p];
  }
}

// Which of a tile's sums a thread has in the end: of each half of its own, `count` from `first` on. Where warps share
// sums, each has its part of the result, so that all of them write. Number k of a half is of channel
// channel + k / kPixels (in the second half, 4 more) and pixel pixel + k % kPixels.
template <int kPixels>
struct Part {
  static constexpr int kHalf = kThreadChannels * kPixels / 2;
  static_assert(kHalf / kWarps <= kPixels && kPixels % (kHalf / kWarps) == 0);
  int first, count, channel, pixel;

  GLORO_FAST_DEVICE explicit Part(const Place& place) {
    count = kHalf / place.splits;
    first = place.split * count;
    channel = first / kPixels, pixel = first % kPixels;
  }
};

// Adds up the sums of the warps that share them, one half after the other; number k of the thread's part is then number
// k of a half, and what is beyond is 0. Uses 1,024 words a pixel of a thread.
template <int kPixels>
GLORO_FAST_DEVICE void join_splits(Sums<kPixels>& sums, const Place& place, const Part<kPixels>& part, float* memory) {
  if (place.splits == 1) return;
  constexpr int kHalf = Part<kPixels>::kHalf;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float* const mine = memory + warp * (kHalf * 32) + lane;
  const float* const shared = memory + (warp - place.split) * (kHalf * 32) + part.first * 32 + lane;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float (&values)[kHalf] = reinterpret_cast<float (&)[2][kHalf]>(sums)[half];
    if (half > 0) __syncthreads();
#pragma unroll
    for (int i = 0; i < kHalf; ++i) mine[i * 32] = values[i], values[i] = 0;
    __syncthreads();
    for (int split = 0; split < place.splits; ++split)
#pragma unroll
      for (int k = 0; k < kHalf / 2; ++k)
        if (k < part.count) values[k] += shared[(split * kHalf + k) * 32];
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

// Calls function(where in the window, where in the picture, whether it lies in it) for the values of `channels`
// channels that are this thread's.
template <typename Function>
GLORO_FAST_DEVICE void for_each_value(const WindowLayout& layout, int log_lanes, const AxisView& y, const AxisView& x,
                                      int height, int width, int channels, const Function& function) {
  const int positions = y.extent * x.extent, lanes = 1 << log_lanes;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_channel = thread >> log_lanes, channel_step = kThreads >> log_lanes;
  const int word_step = channel_step * layout.channel(), pixel_step = channel_step * height * width;
  for (int position = thread & (lanes - 1); position < positions; position += lanes) {
    const int row = position / x.extent, column = position % x.extent;
    const int iy = y.origin + row, ix = x.origin + column;
    const bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
    int to = layout.at(row, column) + first_channel * layout.channel();
    int from = inside ? iy * width + ix + first_channel * height * width : 0;
#pragma unroll 4
    for (int channel = first_channel; channel < channels; channel += channel_step) {
      function(to, from, inside);
      to += word_step, from += inside ? pixel_step : 0;
    }
  }
}

// Stages `channels` channels of a picture, with zeros where the window reaches beyond it: all copies are under way at
// once, to be waited for.
GLORO_FAST_DEVICE void start_window(float* window, const WindowLayout& layout, int log_lanes, const AxisView& y,
                                    const AxisView& x, const float* picture, int height, int width, int channels) {
  for_each_value(layout, log_lanes, y, x, height, width, channels,
                 [&](int to, int from, bool inside) { copy_4_bytes(window + to, picture + from, inside); });
}

// Multiplies what this thread has staged so, for which it has waited.
GLORO_FAST_DEVICE void scale_window(float* window, const WindowLayout& layout, int log_lanes, const AxisView& y,
                                    const AxisView& x, int height, int width, int channels, Scale scale) {
  for_each_value(layout, log_lanes, y, x, height, width, channels,
                 [&](int to, int, bool) { window[to] = window[to] * scale; });
}

}  // namespace gloro_fast::cuda
