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
  template <typename Rows>
  struct As {
    using Type = Rows;
  };

  static bool is_aligned(const T* p) { return reinterpret_cast<uintptr_t>(p) % kLine == 0; }

  // Shorter rows gain nothing by a shift, nor do types of 16 bits, whose stores straddle lines half as often
  // (measured). They are not streamed then.
  static constexpr int64_t kShortest = 512;
  static constexpr bool kShifts = kPairsPerBlock * sizeof(T) >= kLine;

  template <typename Function>
  static void with_rows(const T* output, int64_t length, bool stream, bool in_place, const Function& function) {
    if constexpr (Lanes::kStreams) {
      const int64_t bytes = length * static_cast<int64_t>(sizeof(T));
      const bool whole = bytes % kLine == 0 && is_aligned(output);
      if (whole && stream) {
        function(As<PlainRows<Lanes, T, true>>{});
        return Lanes::fence();
      }
      if constexpr (kShifts) {
        if (!whole && bytes >= kShortest && !in_place) {  // in place the lines are in the caches
          if (!stream) return function(As<ShiftedRows<Lanes, T, false>>{});
          function(As<ShiftedRows<Lanes, T, true>>{});
          return Lanes::fence();
        }
      }
    }
    static_cast<void>(output), static_cast<void>(stream), static_cast<void>(in_place);
    function(As<PlainRows<Lanes, T, false>>{});
  }

  template <typename Function>
  static void with_around(const T* output, bool stream, const Function& function) {
    if constexpr (Lanes::kStreams) {
      if (stream && is_aligned(output)) {
        function(std::true_type{});
        return Lanes::fence();
      }
    }
    static_cast<void>(output), static_cast<void>(stream);
    function(std::false_type{});
  }

  static void run_planar(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length,
                         int64_t row_begin, int64_t row_end, bool stream) {
    const auto run = [&](auto rows, auto with_bias) {
      planar<Lanes, typename decltype(rows)::Type, with_bias>(x, bias, y, mask, pairs, length, row_begin, row_end);
    };
    with_rows(y, length, stream, x == y,
              [&](auto rows) { bias != nullptr ? run(rows, std::true_type{}) : run(rows, std::false_type{}); });
  }
  static void run_interleaved(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels,
                              int64_t block_begin, int64_t block_end, bool stream) {
    const auto run = [&](auto around, auto with_bias) {
      interleaved<Lanes, around, with_bias>(x, bias, y, mask, pairs, pixels, block_begin, block_end);
    };
    with_around(y, stream,
                [&](auto around) { bias != nullptr ? run(around, std::true_type{}) : run(around, std::false_type{}); });
  }
  static void run_backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t length,
                                  int64_t row_begin, int64_t row_end, bool stream) {
    const auto run = [&](auto rows, auto with_sums) {
      backward_planar<Lanes, typename decltype(rows)::Type, with_sums>(grad_y, mask, grad_x, sums, length, row_begin,
                                                                       row_end);
    };
    with_rows(grad_x, length, stream, false,
              [&](auto rows) { sums != nullptr ? run(rows, std::true_type{}) : run(rows, std::false_type{}); });
  }
  static void run_backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t pairs,
                                       int64_t pixels, int64_t chunk_begin, int64_t chunk_end, bool stream) {
    const auto run = [&](auto around, auto with_sums) {
      backward_interleaved<Lanes, around, with_sums>(grad_y, mask, grad_x, sums, pairs, pixels, chunk_begin, chunk_end);
    };
    with_around(grad_x, stream,
                [&](auto around) { sums != nullptr ? run(around, std::true_type{}) : run(around, std::false_type{}); });
  }

  static constexpr MinmaxKernels<T> kTable{run_planar, run_interleaved, run_backward_planar, run_backward_interleaved};
};

}  // namespace

}  // namespace gloro_fast::cpu
