// The forward loops of MinMax. `Rows` and `kAround` say how results get to memory (minmax_output.h).
#pragma once

#include "minmax_blocks.h"
#include "minmax_output.h"

namespace gloro_fast::cpu {

namespace {

template <typename Lanes, typename Rows, bool kBias, typename T>
[[gnu::flatten]] void planar(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t length,
                             int64_t row_begin, int64_t row_end) {
  using Raw = typename Lanes::Raw;
  const int64_t row_bytes = ceil_div(length, 8);
  Rows rows(length);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* first = x + 2 * row * length;
    const T* second = first + length;
    uint8_t* bits = mask + row * row_bytes;
    rows.start(y + 2 * row * length);
    const int64_t channel = 2 * (row % pairs);
    const Raw first_bias = Lanes::broadcast(kBias ? bias[channel] : T{});
    const Raw second_bias = Lanes::broadcast(kBias ? bias[channel + 1] : T{});
    const auto sort = [&](Raw& a, Raw& b) __attribute__((always_inline)) {
      if constexpr (kBias) {
        a = Lanes::plus(a, first_bias);
        b = Lanes::plus(b, second_bias);
      }
      return Lanes::sort(a, b);
    };
    int64_t i = 0;
    if constexpr (Rows::kOpens) {
      Raw a = Lanes::load(first);
      Raw b = Lanes::load(second);
      store_bits(bits, sort(a, b));
      rows.open(a, b);
      i = kPairsPerBlock;
    }
    for (; i + 4 * kPairsPerBlock <= length; i += 4 * kPairsPerBlock) {
      uint64_t four[4];
      for (int64_t block = 0; block < 4; ++block) {
        Raw a = Lanes::load(first + i + block * kPairsPerBlock);
        Raw b = Lanes::load(second + i + block * kPairsPerBlock);
        four[block] = sort(a, b);
        rows.put(a, b);
      }
      store_bits_of_four(bits + i / 8, four);
    }
    for (; i + kPairsPerBlock <= length; i += kPairsPerBlock) {
      Raw a = Lanes::load(first + i);
      Raw b = Lanes::load(second + i);
      store_bits(bits + i / 8, sort(a, b));
      rows.put(a, b);
    }
    Raw a{}, b{};
    const int64_t rest = length - i;
    if (rest > 0) {
      a = Lanes::load(first + i, rest);
      b = Lanes::load(second + i, rest);
      store_bits(bits + i / 8, sort(a, b), rest);
    }
    rows.end(a, b, rest);
  }
}

template <typename Lanes, bool kAround, bool kBias, typename T>
[[gnu::flatten]] void interleaved(const T* x, const T* bias, T* y, uint8_t* mask, int64_t pairs, int64_t pixels,
                                  int64_t block_begin, int64_t block_end) {
  using Raw = typename Lanes::Raw;
  const int64_t begin = block_begin * kPairsPerBlock;
  const int64_t end = smaller(block_end * kPairsPerBlock, pixels * pairs);
  if (begin >= end) return;
  // The bias of every pair of a period, from the first pair of this range on.
  const int64_t period = smaller(Period(pairs).length, ceil_div(end - begin, kPairsPerBlock) * kPairsPerBlock);
  const Scratch<T> pattern(kBias ? 2 * period : 0);
  if constexpr (kBias) {
    for (int64_t k = 0, pair = begin % pairs; k < period; ++k, pair = pair + 1 < pairs ? pair + 1 : 0) {
      pattern.data[2 * k] = bias[2 * pair];
      pattern.data[2 * k + 1] = bias[2 * pair + 1];
    }
  }
  int64_t place = 0;  // in the pattern
  const auto sort = [&](Raw& a, Raw& b) __attribute__((always_inline)) {
    if constexpr (kBias) {
      Raw first_bias, second_bias;
      Lanes::load_pairs(pattern.data + 2 * place, first_bias, second_bias);
      a = Lanes::plus(a, first_bias);
      b = Lanes::plus(b, second_bias);
      place += kPairsPerBlock;
      if (place == period) place = 0;
    }
    return Lanes::in_order(Lanes::sort(a, b));
  };
  Raw a, b;
  int64_t k = begin;
  for (; k + 4 * kPairsPerBlock <= end; k += 4 * kPairsPerBlock) {
    uint64_t four[4];
    for (int64_t block = 0; block < 4; ++block) {
      const int64_t at = k + block * kPairsPerBlock;
      Lanes::load_pairs(x + 2 * at, a, b);
      four[block] = sort(a, b);
      put_pairs<Lanes, kAround>(y + 2 * at, a, b);
    }
    store_bits_of_four(mask + k / 8, four);
  }
  for (; k + kPairsPerBlock <= end; k += kPairsPerBlock) {
    Lanes::load_pairs(x + 2 * k, a, b);
    store_bits(mask + k / 8, sort(a, b));
    put_pairs<Lanes, kAround>(y + 2 * k, a, b);
  }
  if (const int64_t rest = end - k; rest > 0) {
    Lanes::load_pairs(x + 2 * k, rest, a, b);
    store_bits(mask + k / 8, sort(a, b), rest);
    Lanes::store_pairs(y + 2 * k, rest, a, b);
  }
}

}  // namespace

}  // namespace gloro_fast::cpu
