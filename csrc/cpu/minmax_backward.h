// The backward loops of MinMax. `Output` is Direct or Streamed.
#pragma once

#include "minmax_blocks.h"
#include "minmax_output.h"

namespace gloro_fast::cpu {

namespace {

// Pixels (or groups of pixels, see Period) that are added to sums in registers before these go back to memory.
constexpr int64_t kPeriodsPerStrip = 8;

template <typename Lanes, typename Output, bool kSums, typename T, typename Sum>
void backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t length, int64_t row_begin,
                     int64_t row_end) {
  using Raw = typename Lanes::Raw;
  using Wide = typename Lanes::Wide;
  const int64_t row_bytes = ceil_div(length, 8);
  PairOfRows<Output, T> rows(length);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* low = grad_y + 2 * row * length;
    const T* high = low + length;
    const uint8_t* bits = mask + row * row_bytes;
    rows.start(grad_x + 2 * row * length);
    double first_total = 0;
    double second_total = 0;
    // Sums start afresh with every tile, so that they stay short however large the picture is.
    for (int64_t begin = 0; begin < length; begin += kValuesPerTile) {
      const int64_t end = smaller(begin + kValuesPerTile, length);
      T *first, *second;  // of value `begin` of the row
      rows.place(begin, end, first, second);
      Wide first_sums = Lanes::zero();
      Wide second_sums = Lanes::zero();
      const auto add = [&](const Raw& a, const Raw& b) __attribute__((always_inline)) {
        if constexpr (kSums) {
          first_sums = Lanes::add(first_sums, a);
          second_sums = Lanes::add(second_sums, b);
        }
      };
      int64_t i = begin;
      for (; i + kPairsPerBlock <= end; i += kPairsPerBlock) {
        Raw a = Lanes::load(low + i);
        Raw b = Lanes::load(high + i);
        Lanes::route(load_bits(bits + i / 8), a, b);
        Lanes::store(first + (i - begin), a);
        Lanes::store(second + (i - begin), b);
        add(a, b);
      }
      if (const int64_t rest = end - i; rest > 0) {
        Raw a = Lanes::load(low + i, rest);
        Raw b = Lanes::load(high + i, rest);
        Lanes::route(load_bits(bits + i / 8, rest), a, b);
        Lanes::store(first + (i - begin), a, rest);
        Lanes::store(second + (i - begin), b, rest);
        add(a, b);
      }
      if constexpr (kSums) {
        first_total += Lanes::total(first_sums);
        second_total += Lanes::total(second_sums);
      }
    }
    if constexpr (kSums) {
      sums[2 * row] = static_cast<Sum>(first_total);
      sums[2 * row + 1] = static_cast<Sum>(second_total);
    }
  }
}

// `count` pairs of an interleaved run, which begins with a whole byte of the mask.
template <typename Lanes, typename Output, typename T>
void route_run(const T* grad_y, const uint8_t* mask, T* grad_x, int64_t count, Output& output) {
  for (int64_t tile = 0; tile < count; tile += kPairsPerTile) {
    const int64_t tile_end = smaller(tile + kPairsPerTile, count);
    T* const out = output.place(grad_x + 2 * tile, 2 * (tile_end - tile));
    typename Lanes::Raw a, b;
    int64_t k = tile;
    for (; k + kPairsPerBlock <= tile_end; k += kPairsPerBlock) {
      Lanes::load_pairs(grad_y + 2 * k, a, b);
      Lanes::route(Lanes::in_order(load_bits(mask + k / 8)), a, b);
      Lanes::store_pairs(out + 2 * (k - tile), a, b);
    }
    if (const int64_t rest = tile_end - k; rest > 0) {
      Lanes::load_pairs(grad_y + 2 * k, rest, a, b);
      Lanes::route(Lanes::in_order(load_bits(mask + k / 8, rest)), a, b);
      Lanes::store_pairs(out + 2 * (k - tile), rest, a, b);
    }
  }
}

// The same with sums: strand[2k], strand[2k+1] become those of pair k of the period, over all periods of the run.
template <typename Lanes, typename Output, typename T, typename Sum>
void route_run_and_sum(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* strand, int64_t count, int64_t period,
                       int64_t periods_per_strip, Output& output) {
  using Wide = typename Lanes::Wide;
  const int64_t used = smaller(period, ceil_div(count, kPairsPerBlock) * kPairsPerBlock);
  std::memset(static_cast<void*>(strand), 0, sizeof(Sum) * 2 * static_cast<size_t>(used));
  for (int64_t strip = 0; strip < count; strip += periods_per_strip * period) {
    const int64_t strip_end = smaller(strip + periods_per_strip * period, count);
    T* const out = output.place(grad_x + 2 * strip, 2 * (strip_end - strip));
    for (int64_t place = 0; place < used; place += kPairsPerBlock) {
      Wide first_sums = Lanes::load_sums(strand + 2 * place);
      Wide second_sums = Lanes::load_sums(strand + 2 * place + kPairsPerBlock);
      typename Lanes::Raw a, b;
      int64_t k = strip + place;
      for (; k + kPairsPerBlock <= strip_end; k += period) {
        Lanes::load_pairs(grad_y + 2 * k, a, b);
        Lanes::route(Lanes::in_order(load_bits(mask + k / 8)), a, b);
        Lanes::store_pairs(out + 2 * (k - strip), a, b);
        first_sums = Lanes::add(first_sums, a);
        second_sums = Lanes::add(second_sums, b);
      }
      if (const int64_t rest = strip_end - k; rest > 0) {
        Lanes::load_pairs(grad_y + 2 * k, rest, a, b);
        Lanes::route(Lanes::in_order(load_bits(mask + k / 8, rest)), a, b);
        Lanes::store_pairs(out + 2 * (k - strip), rest, a, b);
        first_sums = Lanes::add(first_sums, a);
        second_sums = Lanes::add(second_sums, b);
      }
      Lanes::store_sums(strand + 2 * place, first_sums);
      Lanes::store_sums(strand + 2 * place + kPairsPerBlock, second_sums);
    }
  }
  for (int64_t place = 0; place < used; place += kPairsPerBlock) {
    Sum* sums = strand + 2 * place;
    Lanes::store_sums_of_pairs(sums, Lanes::load_sums(sums), Lanes::load_sums(sums + kPairsPerBlock));
  }
}

template <typename Lanes, typename Output, bool kSums, typename T, typename Sum>
void backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t pairs, int64_t pixels,
                          int64_t chunk_begin, int64_t chunk_end) {
  if (pairs == 0) return;
  const Period period(pairs);
  const int64_t most = smaller(period.length, kPixelsPerChunk * pairs);
  const Scratch<Sum> strands(kSums ? 2 * most : 0);
  const int64_t channels = 2 * pairs;
  Output output;
  for (int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
    const int64_t begin = chunk * kPixelsPerChunk * pairs;
    const int64_t count = smaller(begin + kPixelsPerChunk * pairs, pixels * pairs) - begin;
    const T* from = grad_y + 2 * begin;
    const uint8_t* bits = mask + begin / 8;
    T* to = grad_x + 2 * begin;
    if constexpr (!kSums) {
      route_run<Lanes>(from, bits, to, count, output);
    } else {
      const int64_t fitting = Output::kCapacity / (2 * period.length * static_cast<int64_t>(sizeof(T)));
      if (fitting > 0) {
        const int64_t periods = smaller(fitting, kPeriodsPerStrip);
        route_run_and_sum<Lanes>(from, bits, to, strands.data, count, period.length, periods, output);
      } else {
        Direct direct;
        route_run_and_sum<Lanes>(from, bits, to, strands.data, count, period.length, kPeriodsPerStrip, direct);
      }
      Sum* chunk_sums = sums + chunk * channels;
      std::memcpy(chunk_sums, strands.data, sizeof(Sum) * static_cast<size_t>(channels));
      for (int64_t strand = 1; strand < period.strands; ++strand) {
        const int64_t here = smaller(channels, 2 * count - strand * channels);
        for (int64_t c = 0; c < here; ++c) chunk_sums[c] += strands.data[strand * channels + c];
      }
    }
  }
}

}  // namespace

}  // namespace gloro_fast::cpu
