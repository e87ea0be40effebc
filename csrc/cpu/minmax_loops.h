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
  template <typename Output>
  struct As {
    using Type = Output;
  };
  // An instruction set that sends no lines takes the direct way whatever it is asked.
  template <bool kAround>
  using Lines = std::conditional_t<Lanes::kSends, Buffered<Lanes, kAround>, Direct>;

  template <typename Function>
  static void with_output(bool stream, bool buffer, const Function& function) {
    if (stream) return function(As<Lines<true>>{});
    if (buffer) return function(As<Lines<false>>{});
    function(As<Direct>{});
  }

  // Whether stores to rows of this length mostly straddle lines; short rows gain nothing by a buffer (measured).
  static bool straddles(int64_t length) {
    const int64_t bytes = length * static_cast<int64_t>(sizeof(T));
    return bytes >= 512 && bytes % 64 != 0;
  }

  static void run_planar(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length,
                         int64_t row_begin, int64_t row_end, bool stream) {
    const auto run = [&](auto output, auto with_bias) {
      planar<Lanes, typename decltype(output)::Type, with_bias>(x, bias, y, mask, pairs, length, row_begin, row_end);
    };
    with_output(stream, straddles(length) && x != y,
                [&](auto output) { bias != nullptr ? run(output, std::true_type{}) : run(output, std::false_type{}); });
  }
  static void run_interleaved(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels,
                              int64_t block_begin, int64_t block_end, bool stream) {
    const auto run = [&](auto output, auto with_bias) {
      interleaved<Lanes, typename decltype(output)::Type, with_bias>(x, bias, y, mask, pairs, pixels, block_begin,
                                                                     block_end);
    };
    with_output(stream, false,
                [&](auto output) { bias != nullptr ? run(output, std::true_type{}) : run(output, std::false_type{}); });
  }
  static void run_backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t length,
                                  int64_t row_begin, int64_t row_end, bool stream) {
    const auto run = [&](auto output, auto with_sums) {
      backward_planar<Lanes, typename decltype(output)::Type, with_sums>(grad_y, mask, grad_x, sums, length, row_begin,
                                                                         row_end);
    };
    with_output(stream, straddles(length),
                [&](auto output) { sums != nullptr ? run(output, std::true_type{}) : run(output, std::false_type{}); });
  }
  static void run_backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t pairs,
                                       int64_t pixels, int64_t chunk_begin, int64_t chunk_end, bool stream) {
    const auto run = [&](auto output, auto with_sums) {
      backward_interleaved<Lanes, typename decltype(output)::Type, with_sums>(grad_y, mask, grad_x, sums, pairs, pixels,
                                                                              chunk_begin, chunk_end);
    };
    with_output(stream, false,
                [&](auto output) { sums != nullptr ? run(output, std::true_type{}) : run(output, std::false_type{}); });
  }

  static constexpr MinmaxKernels<T> kTable{run_planar, run_interleaved, run_backward_planar, run_backward_interleaved};
};

}  // namespace

}  // namespace gloro_fast::cpu
