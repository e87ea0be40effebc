// What a warp holds of a matrix product on tensor cores: 32 rows x 64 columns of sums, multiplied 8 terms at a time.
//
// The order of rows, of columns and of terms is free, so a lane loads four neighbours at once and lets each count where
// the hardware wants it; tables below say where. 32 products of 16 x 8 x 8 go with 12 loads of 16 bytes.
#pragma once

#include "dialect.cuh"
#include "power_iteration_plan.h"

namespace gloro_fast::cuda {

inline constexpr int kRowTiles = kWarpPixels / 16;      // of 16 rows
inline constexpr int kColumnTiles = kWarpChannels / 8;  // of 8 columns
inline constexpr int kWarpSums = kRowTiles * kColumnTiles * 4;
// Lane 4 g + t has of tile (m, n) the rows (m, g) and (m, g + 8), in that order, each with two columns: of 64 columns,
// tile n = 4 q + j at its column c stands for column 32 q + 4 c + j. So it holds 8 neighbours, 32 q + 8 t and on.
using WarpSums = float[kRowTiles][kColumnTiles][4];

GLORO_FAST_DEVICE void load_four(float (&to)[4], const float* from) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// What the tensor cores take of a number, and what they leave, which they take whole but for its last bits: three
// products are then as good as one in float. Cutting off, where rounding would take twice the instructions.
struct Parts {
  float high, low;
  GLORO_FAST_DEVICE explicit Parts(float value) {
    high = __int_as_float(__float_as_int(value) & static_cast<int>(0xffffe000u));
    low = value - high;
  }
};

// Adds 8 terms to tile n of one row tile: a of both rows and both halves of the terms, b of the halves.
template <bool kExact>
GLORO_FAST_DEVICE void add_terms_of_tile(float (&sums)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  if (kExact) {
    const Parts p0(a0), p1(a1), p2(a2), p3(a3), q0(b0), q1(b1);
    multiply_tf32(sums, p0.low, p1.low, p2.low, p3.low, q0.high, q1.high);
    multiply_tf32(sums, p0.high, p1.high, p2.high, p3.high, q0.low, q1.low);
    multiply_tf32(sums, p0.high, p1.high, p2.high, p3.high, q0.high, q1.high);
  } else {
    multiply_tf32(sums, a0, a1, a2, a3, b0, b1);
  }
}

// Waits for the oldest of `ahead` groups of copies under way, 1 or 2.
GLORO_FAST_DEVICE void wait_for_step(int ahead) {
  if (ahead == 1)
    wait_for_copies<0>();
  else
    wait_for_copies<1>();
}

// Where a warp works, and its lane.
struct WarpPlace {
  int g, t;           // the lane's number is 4 g + t
  int row, column;    // the first of the warp, within the tile
  int split, splits;  // which share of the terms
  int warp;

  GLORO_FAST_DEVICE explicit WarpPlace(const Tiling& tiling) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int log_columns = tiling.log_channel_lanes - 3;
    warp = static_cast<int>(threadIdx.x >> 5);
    g = lane >> 2, t = lane & 3;
    splits = 1 << tiling.log_split;
    split = warp & (splits - 1);
    const int of_tile = warp >> tiling.log_split;
    column = (of_tile & ((1 << log_columns) - 1)) * kWarpChannels;
    row = (of_tile >> log_columns) * kWarpPixels;
  }
};
static_assert(kThreadChannels << 3 == kWarpChannels);

// Adds up the sums of the warps that share them, in pairs; those of split 0 have the result. Uses 8,192 words.
GLORO_FAST_DEVICE void join_splits(WarpSums& sums, const WarpPlace& place, float* memory) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int half = place.splits / 2; half > 0; half /= 2) {
    float* const mine = memory + (place.warp / place.splits * half + place.split % half) * (kWarpSums * 32) + lane;
    if (place.split >= half && place.split < 2 * half) {
#pragma unroll
      for (int i = 0; i < kWarpSums; ++i) mine[i * 32] = sums[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4];
    }
    __syncthreads();
    if (place.split < half) {
#pragma unroll
      for (int i = 0; i < kWarpSums; ++i) sums[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4] += mine[i * 32];
    }
    __syncthreads();
  }
}

}  // namespace gloro_fast::cuda
