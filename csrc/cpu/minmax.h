// MinMax on the CPU: adjacent channel pairs (2c, 2c+1) become (min, max); one bit a pair is kept.
//
// Every function works on a range of independent pieces, so that the caller may spread them over threads;
// no result depends on how the pieces are spread. T is float, double, BFloat16 or Half.
//
// Two memory orders, and in both the bit of pair k of a run is bit k % 8 of byte k / 8 (1: the pair swaps):
//   planar       (samples, pairs, 2, length)   a row is one pair of one sample: length bits, padded to whole
//                                              bytes; row r is pair r % pairs of sample r / pairs
//   interleaved  (pixels, pairs, 2)            one run of pixels * pairs bits
// `bias` has 2 * pairs values and is added to x first; it may be null.
#pragma once

#include <cstdint>

#include "half.h"

namespace gloro_fast::cpu {

// The type sums of T are taken in.
template <typename T>
using Accumulator = decltype(widen(T{}));

// Sums over pixels are taken over chunks of this many, whatever the number of threads; a multiple of 8, so
// that a chunk starts with a whole byte of the mask.
inline constexpr int64_t kPixelsPerChunk = 128;

inline constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Rows [row_begin, row_end) of the planar order.
template <typename T>
void minmax_planar(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length, int64_t row_begin,
                   int64_t row_end);

// Mask bytes [byte_begin, byte_end) of the interleaved order, eight pairs each.
template <typename T>
void minmax_interleaved(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels,
                        int64_t byte_begin, int64_t byte_end);

// Rows [row_begin, row_end): routes grad_y to grad_x by the bits. Where `sums` is not null, row r's two sums
// of grad_x go to sums[2r] and sums[2r+1]: a (samples, channels) matrix for sum_over_chunks.
template <typename T>
void minmax_backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t length,
                            int64_t row_begin, int64_t row_end);

// Chunks [chunk_begin, chunk_end) of kPixelsPerChunk pixels; `sums`, where not null, is (chunks, channels).
template <typename T>
void minmax_backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t pairs,
                                 int64_t pixels, int64_t chunk_begin, int64_t chunk_end);

// total[c] = sum over the rows of the (chunks, channels) matrix, for channels [channel_begin, channel_end).
template <typename T>
void sum_over_chunks(const Accumulator<T>* sums, T* total, int64_t chunks, int64_t channels, int64_t channel_begin,
                     int64_t channel_end);

}  // namespace gloro_fast::cpu
