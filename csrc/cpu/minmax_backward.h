// The backward loops of MinMax. `Rows` and `kAround` say how results get to memory (minmax_output.h).
#pragma once

#include "minmax_blocks.h"
#include "minmax_output.h"

namespace gloro_fast::cpu {

namespace {

// Bytes of an interleaved run over which sums stay in registers, column by column of blocks.
constexpr int64_t kStripBytes = 16384;

template <typename Lanes, typename Rows, bool kSums, typename T, typename Sum>
[[gnu::flatten]] void backward_planar(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t length,
                                      int64_t row_begin, int64_t row_end) {
  using Raw = typename Lanes::Raw;
  using Wide = typename Lanes::Wide;
  const int64_t row_bytes = ceil_div(length, 8);
  Rows rows(length);
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
      Wide first_sums = Lanes::zero();
      Wide second_sums = Lanes::zero();
      const auto add = [&](const Raw& a, const Raw& b) __attribute__((always_inline)) {
        if constexpr (kSums) {
          first_sums = Lanes::add(first_sums, a);
          second_sums = Lanes::add(second_sums, b);
        }
      };
      int64_t i = begin;
      if constexpr (Rows::kOpens) {
        if (begin == 0) {
          Raw a = Lanes::load(low);
          Raw b = Lanes::load(high);
          Lanes::route(load_bits(bits), a, b);
          rows.open(a, b);
          add(a, b);
          i = kPairsPerBlock;
        }
      }
      for (; i + 4 * kPairsPerBlock <= end; i += 4 * kPairsPerBlock) {
        const uint64_t four = load_bits_of_four(bits + i / 8);
        for (int64_t block = 0; block < 4; ++block) {
          Raw a = Lanes::load(low + i + block * kPairsPerBlock);
          Raw b = Lanes::load(high + i + block * kPairsPerBlock);
          Lanes::route(static_cast<unsigned>(four >> 16 * block) & 0xffff, a, b);
          rows.put(a, b);
          add(a, b);
        }
      }
      for (; i + kPairsPerBlock <= end; i += kPairsPerBlock) {
        Raw a = Lanes::load(low + i);
        Raw b = Lanes::load(high + i);
        Lanes::route(load_bits(bits + i / 8), a, b);
        rows.put(a, b);
        add(a, b);
      }
      if (end == length) {
        Raw a{}, b{};
        const int64_t rest = end - i;
        if (rest > 0) {
          a = Lanes::load(low + i, rest);
          b = Lanes::load(high + i, rest);
          Lanes::route(load_bits(bits + i / 8, rest), a, b);
          add(a, b);
        }
        rows.end(a, b, rest);
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
template <typename Lanes, bool kAround, typename T>
[[gnu::flatten]] void route_run(const T* grad_y, const uint8_t* mask, T* grad_x, int64_t count) {
  typename Lanes::Raw a, b;
  int64_t k = 0;
  for (; k + kPairsPerBlock <= count; k += kPairsPerBlock) {
    Lanes::load_pairs(grad_y + 2 * k, a, b);
    Lanes::route(Lanes::in_order(load_bits(mask + k / 8)), a, b);
    put_pairs<Lanes, kAround>(grad_x + 2 * k, a, b);
  }
  if (const int64_t rest = count - k; rest > 0) {
    Lanes::load_pairs(grad_y + 2 * k, rest, a, b);
    Lanes::route(Lanes::in_order(load_bits(mask + k / 8, rest)), a, b);
    Lanes::store_pairs(grad_x + 2 * k, rest, a, b);
  }
}

// The sums of kBlocks blocks side by side; members, since GCC leaves arrays of registers in memory.
template <typename Lanes, int kBlocks>
struct Column {
  typename Lanes::Wide first, second;
  Column<Lanes, kBlocks - 1> others;

  template <typename Sum>
  explicit Column(const Sum* strand)
      : first(Lanes::load_sums(strand)),
        second(Lanes::load_sums(strand + kPairsPerBlock)),
        others(strand + 2 * kPairsPerBlock) {}

  template <typename Sum>
  void store(Sum* strand) const {
    Lanes::store_sums(strand, first);
    Lanes::store_sums(strand + kPairsPerBlock, second);
    others.store(strand + 2 * kPairsPerBlock);
  }

  // Routes the blocks that begin here.
  template <bool kAround, typename T>
  [[gnu::always_inline]] void route(const T* grad_y, const uint8_t* mask, T* out) {
    typename Lanes::Raw a, b;
    Lanes::load_pairs(grad_y, a, b);
    Lanes::route(Lanes::in_order(load_bits(mask)), a, b);
    put_pairs<Lanes, kAround>(out, a, b);
    first = Lanes::add(first, a);
    second = Lanes::add(second, b);
    others.template route<kAround>(grad_y + 2 * kPairsPerBlock, mask + kPairsPerBlock / 8, out + 2 * kPairsPerBlock);
  }

  // The same where the run ends after `count` pairs.
  template <typename T>
  void route_end(const T* grad_y, const uint8_t* mask, T* out, int64_t count) {
    if (count <= 0) return;
    const int64_t here = smaller(kPairsPerBlock, count);
    typename Lanes::Raw a, b;
    Lanes::load_pairs(grad_y, here, a, b);
    Lanes::route(Lanes::in_order(load_bits(mask, here)), a, b);
    Lanes::store_pairs(out, here, a, b);
    first = Lanes::add(first, a);
    second = Lanes::add(second, b);
    others.route_end(grad_y + 2 * here, mask + kPairsPerBlock / 8, out + 2 * here, count - here);
  }
};

template <typename Lanes>
struct Column<Lanes, 0> {
  explicit Column(const void*) {}
  void store(void*) const {}
  template <bool kAround>
  void route(const void*, const void*, void*) {}
  void route_end(const void*, const void*, void*, int64_t) {}
};

// Pairs [begin, end) of a run, of which kBlocks blocks every `period` pairs, and their sums.
template <typename Lanes, bool kAround, int kBlocks, typename T, typename Sum>
[[gnu::flatten]] void route_column(const T* grad_y, const uint8_t* mask, T* out, Sum* strand, int64_t begin,
                                   int64_t end, int64_t period) {
  Column<Lanes, kBlocks> column(strand);
  int64_t k = begin;
  for (; k + kBlocks * kPairsPerBlock <= end; k += period) {
    column.template route<kAround>(grad_y + 2 * k, mask + k / 8, out + 2 * (k - begin));
  }
  if (k < end) column.route_end(grad_y + 2 * k, mask + k / 8, out + 2 * (k - begin), end - k);
  column.store(strand);
}

// route_run with sums: strand[2k], strand[2k+1] become those of pair k of the period, over all periods of the run.
template <typename Lanes, bool kAround, typename T, typename Sum>
void route_run_and_sum(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* strand, int64_t count, int64_t period,
                       int64_t periods_per_strip) {
  const int64_t used = smaller(period, ceil_div(count, kPairsPerBlock) * kPairsPerBlock);
  std::memset(static_cast<void*>(strand), 0, sizeof(Sum) * 2 * static_cast<size_t>(used));
  for (int64_t strip = 0; strip < count; strip += periods_per_strip * period) {
    const int64_t strip_end = smaller(strip + periods_per_strip * period, count);
    T* const out = grad_x + 2 * strip;
    int64_t place = 0;
    // The wider the column, the more of a line of memory is used at once, as far as there are registers.
    for (; place + Lanes::kColumn * kPairsPerBlock <= used; place += Lanes::kColumn * kPairsPerBlock) {
      route_column<Lanes, kAround, Lanes::kColumn>(grad_y, mask, out + 2 * place, strand + 2 * place, strip + place,
                                                   strip_end, period);
    }
    for (; place < used; place += kPairsPerBlock) {
      route_column<Lanes, kAround, 1>(grad_y, mask, out + 2 * place, strand + 2 * place, strip + place, strip_end,
                                      period);
    }
  }
  for (int64_t place = 0; place < used; place += kPairsPerBlock) {
    Sum* sums = strand + 2 * place;
    Lanes::store_sums_of_pairs(sums, Lanes::load_sums(sums), Lanes::load_sums(sums + kPairsPerBlock));
  }
}

template <typename Lanes, bool kAround, bool kSums, typename T, typename Sum>
void backward_interleaved(const T* grad_y, const uint8_t* mask, T* grad_x, Sum* sums, int64_t pairs, int64_t pixels,
                          int64_t chunk_begin, int64_t chunk_end) {
  if (pairs == 0) return;
  const Period period(pairs);
  const int64_t most = smaller(period.length, kPixelsPerChunk * pairs);
  const Scratch<Sum> strands(kSums ? 2 * most : 0);
  const int64_t channels = 2 * pairs;
  const int64_t periods = kStripBytes / (2 * period.length * static_cast<int64_t>(sizeof(T)));
  for (int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
    const int64_t begin = chunk * kPixelsPerChunk * pairs;
    const int64_t count = smaller(begin + kPixelsPerChunk * pairs, pixels * pairs) - begin;
    const T* from = grad_y + 2 * begin;
    const uint8_t* bits = mask + begin / 8;
    T* to = grad_x + 2 * begin;
    if constexpr (!kSums) {
      route_run<Lanes, kAround>(from, bits, to, count);
    } else {
      route_run_and_sum<Lanes, kAround>(from, bits, to, strands.data, count, period.length, periods > 0 ? periods : 1);
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
