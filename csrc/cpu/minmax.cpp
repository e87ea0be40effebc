#include "minmax.h"

#include <algorithm>

namespace gloro_fast::cpu {

namespace {

constexpr int64_t kBits = 8;
constexpr int64_t kBytesPerBlock = 128;

template <typename T>
struct Sorted {
  T low;
  T high;
  bool swap;
};

// Either NaN makes both NaN; equal values (0 and -0 too) keep their places.
template <typename T>
inline Sorted<T> sorted(T first, T second) {
  const auto a = widen(first);
  const auto b = widen(second);
  const bool swap = a > b;
  const bool ordered = swap || a <= b;
  const T nan = narrow<T>(a + b);
  const T low = swap ? second : first;
  const T high = swap ? first : second;
  return {ordered ? low : nan, ordered ? high : nan, swap};
}

// The sum rounded to T before it is compared, as if the bias had been added in a pass of its own.
template <typename T>
inline T plus(T value, T bias) {
  return narrow<T>(widen(value) + widen(bias));
}

template <bool kBias, typename T>
void planar(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length, int64_t row_begin,
            int64_t row_end) {
  const int64_t row_bytes = ceil_div(length, kBits);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* first = x + 2 * row * length;
    const T* second = first + length;
    T* low = y + 2 * row * length;
    T* high = low + length;
    const int64_t channel = 2 * (row % pairs);
    const T first_bias = kBias ? bias[channel] : T{};
    const T second_bias = kBias ? bias[channel + 1] : T{};
    for (int64_t byte = 0; byte < row_bytes; ++byte) {
      const int64_t begin = byte * kBits;
      const int64_t end = std::min(begin + kBits, length);
      unsigned bits = 0;
      for (int64_t i = begin; i < end; ++i) {
        const Sorted<T> pair =
            kBias ? sorted(plus(first[i], first_bias), plus(second[i], second_bias)) : sorted(first[i], second[i]);
        low[i] = pair.low;
        high[i] = pair.high;
        bits |= unsigned{pair.swap} << (i - begin);
      }
      mask[row * row_bytes + byte] = static_cast<uint8_t>(bits);
    }
  }
}

template <bool kBias, typename T>
void interleaved(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels, int64_t byte_begin,
                 int64_t byte_end) {
  const int64_t count = pixels * pairs;
  int64_t pair_of_bias = kBias && count > 0 ? byte_begin * kBits % pairs : 0;
  for (int64_t byte = byte_begin; byte < byte_end; ++byte) {
    const int64_t begin = byte * kBits;
    const int64_t end = std::min(begin + kBits, count);
    unsigned bits = 0;
    for (int64_t k = begin; k < end; ++k) {
      T first = x[2 * k];
      T second = x[2 * k + 1];
      if constexpr (kBias) {
        first = plus(first, bias[2 * pair_of_bias]);
        second = plus(second, bias[2 * pair_of_bias + 1]);
        if (++pair_of_bias == pairs) pair_of_bias = 0;
      }
      const Sorted<T> pair = sorted(first, second);
      y[2 * k] = pair.low;
      y[2 * k + 1] = pair.high;
      bits |= unsigned{pair.swap} << (k - begin);
    }
    mask[byte] = static_cast<uint8_t>(bits);
  }
}

template <bool kSums, typename T>
void backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t length,
                     int64_t row_begin, int64_t row_end) {
  const int64_t row_bytes = ceil_div(length, kBits);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* low = grad_y + 2 * row * length;
    const T* high = low + length;
    T* first = grad_x + 2 * row * length;
    T* second = first + length;
    const uint8_t* bits = mask + row * row_bytes;
    double first_sum = 0;
    double second_sum = 0;
    // A lane a bit, and a fresh start every block: the float sums stay short however large the picture is.
    for (int64_t block = 0; block < row_bytes; block += kBytesPerBlock) {
      Accumulator<T> first_lanes[kBits] = {};
      Accumulator<T> second_lanes[kBits] = {};
      const int64_t block_end = std::min(block + kBytesPerBlock, row_bytes);
      for (int64_t byte = block; byte < block_end; ++byte) {
        const int64_t begin = byte * kBits;
        const int64_t end = std::min(begin + kBits, length);
        for (int64_t i = begin; i < end; ++i) {
          const bool swap = bits[byte] >> (i - begin) & 1;
          first[i] = swap ? high[i] : low[i];
          second[i] = swap ? low[i] : high[i];
          if constexpr (kSums) {
            first_lanes[i - begin] += widen(first[i]);
            second_lanes[i - begin] += widen(second[i]);
          }
        }
      }
      if constexpr (kSums) {
        for (int64_t lane = 0; lane < kBits; ++lane) {
          first_sum += first_lanes[lane];
          second_sum += second_lanes[lane];
        }
      }
    }
    if constexpr (kSums) {
      sums[2 * row] = static_cast<Accumulator<T>>(first_sum);
      sums[2 * row + 1] = static_cast<Accumulator<T>>(second_sum);
    }
  }
}

template <bool kSums, typename T>
void backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t pairs,
                          int64_t pixels, int64_t chunk_begin, int64_t chunk_end) {
  for (int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
    Accumulator<T>* chunk_sums = kSums ? sums + chunk * 2 * pairs : nullptr;
    if constexpr (kSums) std::fill_n(chunk_sums, 2 * pairs, Accumulator<T>{0});
    const int64_t pixel_end = std::min((chunk + 1) * kPixelsPerChunk, pixels);
    for (int64_t pixel = chunk * kPixelsPerChunk; pixel < pixel_end; ++pixel) {
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t k = pixel * pairs + pair;
        const bool swap = mask[k / kBits] >> (k % kBits) & 1;
        const T low = grad_y[2 * k];
        const T high = grad_y[2 * k + 1];
        grad_x[2 * k] = swap ? high : low;
        grad_x[2 * k + 1] = swap ? low : high;
        if constexpr (kSums) {
          chunk_sums[2 * pair] += widen(grad_x[2 * k]);
          chunk_sums[2 * pair + 1] += widen(grad_x[2 * k + 1]);
        }
      }
    }
  }
}

}  // namespace

template <typename T>
void minmax_planar(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length, int64_t row_begin,
                   int64_t row_end) {
  const auto run = bias != nullptr ? planar<true, T> : planar<false, T>;
  run(x, bias, y, mask, pairs, length, row_begin, row_end);
}

template <typename T>
void minmax_interleaved(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels,
                        int64_t byte_begin, int64_t byte_end) {
  const auto run = bias != nullptr ? interleaved<true, T> : interleaved<false, T>;
  run(x, bias, y, mask, pairs, pixels, byte_begin, byte_end);
}

template <typename T>
void minmax_backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t length,
                            int64_t row_begin, int64_t row_end) {
  const auto run = sums != nullptr ? backward_planar<true, T> : backward_planar<false, T>;
  run(grad_y, mask, grad_x, sums, length, row_begin, row_end);
}

template <typename T>
void minmax_backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Accumulator<T>* sums, int64_t pairs,
                                 int64_t pixels, int64_t chunk_begin, int64_t chunk_end) {
  const auto run = sums != nullptr ? backward_interleaved<true, T> : backward_interleaved<false, T>;
  run(grad_y, mask, grad_x, sums, pairs, pixels, chunk_begin, chunk_end);
}

template <typename T>
void sum_over_chunks(const Accumulator<T>* sums, T* total, int64_t chunks, int64_t channels, int64_t channel_begin,
                     int64_t channel_end) {
  for (int64_t channel = channel_begin; channel < channel_end; ++channel) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * channels + channel];
    total[channel] = narrow<T>(static_cast<Accumulator<T>>(sum));
  }
}

#define GLORO_FAST_INSTANTIATE(T)                                                                                     \
  template void minmax_planar(const T*, const T*, T*, uint8_t*, int64_t, int64_t, int64_t, int64_t);                  \
  template void minmax_interleaved(const T*, const T*, T*, uint8_t*, int64_t, int64_t, int64_t, int64_t);             \
  template void minmax_backward_planar(const T*, const uint8_t*, T*, Accumulator<T>*, int64_t, int64_t, int64_t);     \
  template void minmax_backward_interleaved(const T*, const uint8_t*, T*, Accumulator<T>*, int64_t, int64_t, int64_t, \
                                            int64_t);                                                                 \
  template void sum_over_chunks(const Accumulator<T>*, T*, int64_t, int64_t, int64_t, int64_t);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)
GLORO_FAST_INSTANTIATE(BFloat16)
GLORO_FAST_INSTANTIATE(Half)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
