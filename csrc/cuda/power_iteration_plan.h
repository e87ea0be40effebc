// What a launch of the batched power iteration is told: every layer with its tiles, its memory and its blocks.
// Plain data that goes to the kernel by value, so that a launch needs no copy to the device and can be captured in
// a graph. power_iteration_planner.h writes the numbers, the caller the pointers.
#pragma once

#include <cstdint>

namespace gloro_fast::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
// Blocks that share a multiprocessor: one computes while the other waits for memory.
inline constexpr int kBlocksPerMultiprocessor = 2;
// What one thread of a convolution computes: 8 channels x 4 pixels, so that 32 multiply-adds (8 cycles of a warp on
// 128 lanes) go with 7 reads of shared memory; or x 2 pixels, for pictures so small that other threads would be idle.
inline constexpr int kThreadChannels = 8;
inline constexpr int kThreadPixels = 4, kFewThreadPixels = 2;
inline constexpr int kThreadSums = kThreadChannels * kThreadPixels;
// A convolution on tensor cores ("wide"): what one warp computes, input channels that lie together in memory and are
// staged together.
inline constexpr int kWarpPixels = 32;
inline constexpr int kWarpChannels = 64;
inline constexpr int kSlice = 16;
inline constexpr int kGemmItemWords = 24;  // of shared memory, before an item's tables
// Shared memory in front of every layout: what the warps of a block tell each other.
inline constexpr int kReservedBytes = 384;
// Rows of a dense layer that a warp takes at once: one, so that many loads of it are under way. Bytes of a row that its
// columns are cut into.
inline constexpr int kDenseRows = 1;
inline constexpr int kDenseStripBytes = 256;
inline constexpr int kGradientRows = 32;

// Loads of global memory that a thread has under way at once, of a dense layer's vector, and of 16 bytes of its
// weights: it waits for the L2 cache once for so many.
inline constexpr int kVectorLoads = 8;
inline constexpr int kRowLoads = 14, kColumnLoads = 8;

enum class WeightType : int32_t { float32, bfloat16, float16 };

// What happens along the height or the width of a convolution.
struct AxisPlan {
  int32_t input, output, kernel, stride, dilation, padding;
  // Input positions of one phase (position mod stride) meet every tap_step-th tap, and from one of those to the next
  // the output moves by tap_shift: stride and dilation over their greatest common divisor.
  int32_t tap_step, tap_shift;
};

// How a product (of the layer, of its transpose, or of the gradient) is cut into items, each the work of one block.
// Offsets count 4-byte words of shared memory.
struct Tiling {
  int32_t items;
  int32_t channel_tiles;     // of the channels of a group that the product gives
  int32_t tiles_y, tiles_x;  // of a phase of the picture that it gives
  int32_t tile_height, tile_width;
  int32_t log_channel_lanes;  // lanes of a warp side by side in the channels; the others lie along pixels
  int32_t log_split;          // warps that share a sum
  int32_t thread_pixels;      // of a thread: kThreadPixels or kFewThreadPixels
  int32_t chunk;              // channels (dense: values) of the input that are staged at once
  int32_t rows, pitch;        // of a staged plane
  int32_t log_window_lanes;   // threads side by side in the positions of a window; the others lie along channels
  int32_t entry_tiles;        // gradient: tiles of (input channel, tap)
  int32_t resident;           // the weights stay in shared memory from one product to the next
  int32_t tables, weights, window;
  // Wide: taps whose weights are staged at once; stages of them, 2 or 3, of which all but one are under way; and staged
  // windows, of a slice of channels for each warp that shares a sum. The tile has kThreadChannels << log_channel_lanes
  // channels here too. The gradient has stages of `chunk` pixels.
  int16_t step_taps;
  int8_t stages, windows;
};

struct LayerPlan {
  // Forward: read; backward: the gradient, written.
  void* weight;
  const float* start;
  float* v;
  float* u;
  float* spare;         // as long as v; wide: packed weights, two packed iterates and u (power_iteration_pack.cuh)
  uint64_t* squares_v;  // of each block, the sum of squares of what it gives of v, with its phase
  uint64_t* squares_u;
  float* sigma;               // backward: the gradient with respect to sigma, read
  int32_t weight_strides[4];  // output, input, height, width, in elements
  WeightType type;
  int32_t dense;
  int32_t wide;  // on tensor cores, vectors and weights packed in `spare`
  int32_t groups, group_outputs, group_inputs;
  int32_t first_block, blocks;  // backward: the items of all layers in a row
  AxisPlan height, width;
  Tiling forward, transposed;  // backward: `forward` cuts the gradient
};

// As many as a launch's parameters hold (32,764 bytes from CUDA 12.1 on); longer networks take several launches.
inline constexpr int kMostLayers = 96;

struct Launch {
  int32_t layers;
  int32_t iterations;
  LayerPlan layer[kMostLayers];
};
static_assert(sizeof(Launch) <= 32764, "the parameters of a kernel are limited");

}  // namespace gloro_fast::cuda
