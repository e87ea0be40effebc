// The table of one instruction set, from its Lanes (minmax_blocks.h).
#pragma once

#include <type_traits>

#include "minmax_backward.h"
#include "minmax_forward.h"

namespace gloro_fast::cpu {

namespace {

template <typename Lanes, typename T>
struct Loops {
  using Sum = Accumulator<T>;
  // An instruction set without streams takes the direct way whatever it is asked.
  using Around = std::conditional_t<Lanes::kStreams, Streamed<Lanes>, Direct>;

  static void run_planar(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length,
                         int64_t row_begin, int64_t row_end, bool stream) {
    const auto run = bias != nullptr ? (stream ? planar<Lanes, Around, true, T> : planar<Lanes, Direct, true, T>)
                                     : (stream ? planar<Lanes, Around, false, T> : planar<Lanes, Direct, false, T>);
    run(x, bias, y, mask, pairs, length, row_begin, row_end);
  }
  static void run_interleaved(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels,
                              int64_t block_begin, int64_t block_end, bool stream) {
    const auto run = bias != nullptr
                         ? (stream ? interleaved<Lanes, Around, true, T> : interleaved<Lanes, Direct, true, T>)
                         : (stream ? interleaved<Lanes, Around, false, T> : interleaved<Lanes, Direct, false, T>);
    run(x, bias, y, mask, pairs, pixels, block_begin, block_end);
  }
  static void run_backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t length,
                                  int64_t row_begin, int64_t row_end, bool stream) {
    const auto run =
        sums != nullptr
            ? (stream ? backward_planar<Lanes, Around, true, T, Sum> : backward_planar<Lanes, Direct, true, T, Sum>)
            : (stream ? backward_planar<Lanes, Around, false, T, Sum> : backward_planar<Lanes, Direct, false, T, Sum>);
    run(grad_y, mask, grad_x, sums, length, row_begin, row_end);
  }
  static void run_backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t pairs,
                                       int64_t pixels, int64_t chunk_begin, int64_t chunk_end, bool stream) {
    const auto run = sums != nullptr ? (stream ? backward_interleaved<Lanes, Around, true, T, Sum>
                                               : backward_interleaved<Lanes, Direct, true, T, Sum>)
                                     : (stream ? backward_interleaved<Lanes, Around, false, T, Sum>
                                               : backward_interleaved<Lanes, Direct, false, T, Sum>);
    run(grad_y, mask, grad_x, sums, pairs, pixels, chunk_begin, chunk_end);
  }

  static constexpr MinmaxKernels<T> kTable{run_planar, run_interleaved, run_backward_planar, run_backward_interleaved};
};

}  // namespace

}  // namespace gloro_fast::cpu
