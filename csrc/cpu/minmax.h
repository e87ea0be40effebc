// MinMax on the CPU: adjacent channel pairs (2c, 2c+1) become (min, max); one bit a pair is kept.
//
// Every function works on a range of independent pieces, so that the caller may spread them over threads; no
// result depends on how the pieces are spread, nor on the instruction set. Either NaN makes both outputs the
// same quiet NaN; equal values (0 and -0 too) keep their places.
//
// Two memory orders, and in both the bit of pair k of a run is bit k % 8 of byte k / 8 (1: the pair swaps):
//   planar       (samples, pairs, 2, length)   a row is one pair of one sample: length bits, padded to whole
//                                              bytes; row r is pair r % pairs of sample r / pairs
//   interleaved  (pixels, pairs, 2)            one run of pixels * pairs bits
// T is float, double, BFloat16 or Half.
#pragma once

#include <cstdint>

#include "../common/half.h"
#include "simd.h"

namespace gloro_fast::cpu {

// The type sums of T are taken in.
template <typename T>
struct AccumulatorOf {
  using Type = float;
};
template <>
struct AccumulatorOf<double> {
  using Type = double;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::Type;

// The kernels work on this many pairs at a time, at every vector width.
inline constexpr int64_t kPairsPerBlock = 16;

// Sums over pixels are taken over chunks of this many, whatever the number of threads; a multiple of the block,
// so that a chunk starts with a whole byte of the mask.
inline constexpr int64_t kPixelsPerChunk = 128;

static constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// `stream` is for outputs larger than the caches, which then are not read before they are written (and which it
// leaves outside the caches); no output may be an input then. It is ignored by instruction sets without such stores,
// and for rows that are not written in whole lines of 64 bytes (minmax_loops.h).
template <typename T>
struct MinmaxKernels {
  // Rows [row_begin, row_end) of the planar order. bias: 2 * pairs values added to x first, each sum rounded to
  // T before it is compared; may be null. y may be x.
  void (*planar)(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length, int64_t row_begin,
                 int64_t row_end, bool stream);

  // Blocks [block_begin, block_end) of the interleaved order, kPairsPerBlock pairs each; bias and y as above.
  void (*interleaved)(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels,
                      int64_t block_begin, int64_t block_end, bool stream);

  // Rows [row_begin, row_end): routes grad_y to grad_x by the bits. Where `sums` is not null, row r's two sums
  // of grad_x go to sums[2r] and sums[2r+1]: a (samples, channels) matrix for sum_over_chunks.
  void (*backward_planar)(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t length,
                          int64_t row_begin, int64_t row_end, bool stream);

  // Chunks [chunk_begin, chunk_end) of kPixelsPerChunk pixels; `sums`, where not null, is (chunks, channels).
  void (*backward_interleaved)(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t pairs,
                               int64_t pixels, int64_t chunk_begin, int64_t chunk_end, bool stream);
};

// The kernels of one instruction set, which the processor must have; each stands in the file named for it.
template <typename T>
const MinmaxKernels<T>& minmax_portable();
template <typename T>
const MinmaxKernels<T>& minmax_avx2();
template <typename T>
const MinmaxKernels<T>& minmax_avx512();

template <typename T>
const MinmaxKernels<T>& minmax_kernels(Simd level);

// total[c] = sum over the rows of the (chunks, channels) matrix, for channels [channel_begin, channel_end).
template <typename T>
void sum_over_chunks(const Accumulator<T>* sums, T* total, int64_t chunks, int64_t channels, int64_t channel_begin,
                     int64_t channel_end);

}  // namespace gloro_fast::cpu
