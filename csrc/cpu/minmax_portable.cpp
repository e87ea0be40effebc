// MinMax without intrinsics: what runs on ARM and on old processors.
#include <limits>
#include <type_traits>

#include "minmax_loops.h"

namespace gloro_fast::cpu {

namespace {

template <typename T>
struct Lanes {
  using Sum = Accumulator<T>;
  static constexpr int64_t kWidth = kPairsPerBlock;
  static constexpr bool kStreams = false;
  static constexpr int kColumn = 1;
  struct Raw {
    T lane[kWidth];
  };
  struct Wide {
    Sum lane[kWidth];
  };

  static Raw load(const T* p, int64_t n = kWidth) {
    Raw raw{};
    for (int64_t i = 0; i < n; ++i) raw.lane[i] = p[i];
    return raw;
  }
  static void store(T* p, const Raw& raw, int64_t n = kWidth) {
    for (int64_t i = 0; i < n; ++i) p[i] = raw.lane[i];
  }
  static void load_pairs(const T* p, Raw& a, Raw& b) { load_pairs(p, kWidth, a, b); }
  static void load_pairs(const T* p, int64_t n, Raw& a, Raw& b) {
    a = b = Raw{};
    for (int64_t i = 0; i < n; ++i) {
      a.lane[i] = p[2 * i];
      b.lane[i] = p[2 * i + 1];
    }
  }
  static void store_pairs(T* p, const Raw& a, const Raw& b) { store_pairs(p, kWidth, a, b); }
  static void store_pairs(T* p, int64_t n, const Raw& a, const Raw& b) {
    for (int64_t i = 0; i < n; ++i) {
      p[2 * i] = a.lane[i];
      p[2 * i + 1] = b.lane[i];
    }
  }
  static unsigned in_order(unsigned bits) { return bits; }

  static Raw broadcast(T value) {
    Raw raw;
    for (T& lane : raw.lane) lane = value;
    return raw;
  }
  static Raw plus(const Raw& a, const Raw& b) {
    Raw sum;
    for (int64_t i = 0; i < kWidth; ++i) sum.lane[i] = narrow<T>(widen(a.lane[i]) + widen(b.lane[i]));
    return sum;
  }
  static unsigned sort(Raw& a, Raw& b) {
    const T quiet = narrow<T>(std::numeric_limits<Sum>::quiet_NaN());
    // In steps that compilers vectorise one by one; a branch on the order of the two would be mispredicted half
    // the time.
    Wide first, second;
    for (int64_t i = 0; i < kWidth; ++i) {
      first.lane[i] = widen(a.lane[i]);
      second.lane[i] = widen(b.lane[i]);
    }
    bool swap[kWidth], nan[kWidth];
    for (int64_t i = 0; i < kWidth; ++i) {
      swap[i] = first.lane[i] > second.lane[i];
      nan[i] = (first.lane[i] != first.lane[i]) | (second.lane[i] != second.lane[i]);
    }
    unsigned bits = 0;
    for (int64_t i = 0; i < kWidth; ++i) bits |= unsigned{swap[i]} << i;
    exchange(swap, a, b);
    for (int64_t i = 0; i < kWidth; ++i) {
      a.lane[i] = nan[i] ? quiet : a.lane[i];
      b.lane[i] = nan[i] ? quiet : b.lane[i];
    }
    return bits;
  }
  static void route(unsigned bits, Raw& a, Raw& b) {
    bool swap[kWidth];
    for (int64_t i = 0; i < kWidth; ++i) swap[i] = (bits >> i & 1) != 0;
    exchange(swap, a, b);
  }

  static Wide zero() { return Wide{}; }
  static Wide add(Wide sums, const Raw& raw) {
    for (int64_t i = 0; i < kWidth; ++i) sums.lane[i] += widen(raw.lane[i]);
    return sums;
  }
  static Sum total(Wide sums) {
    for (int64_t width = kWidth / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) sums.lane[i] += sums.lane[i + width];
    }
    return sums.lane[0];
  }
  static Wide load_sums(const Sum* p) {
    Wide sums;
    std::memcpy(&sums, p, sizeof sums);
    return sums;
  }
  static void store_sums(Sum* p, const Wide& sums) { std::memcpy(p, &sums, sizeof sums); }
  static void store_sums_of_pairs(Sum* p, const Wide& a, const Wide& b) {
    for (int64_t i = 0; i < kWidth; ++i) {
      p[2 * i] = a.lane[i];
      p[2 * i + 1] = b.lane[i];
    }
  }

 private:
  // By masks of the bits of T, which no compiler turns into branches.
  static void exchange(const bool* swap, Raw& a, Raw& b) {
    using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
    Bits first[kWidth], second[kWidth];
    std::memcpy(first, &a, sizeof first);
    std::memcpy(second, &b, sizeof second);
    for (int64_t i = 0; i < kWidth; ++i) {
      const auto all = static_cast<Bits>(-Bits{swap[i]});
      const auto difference = static_cast<Bits>((first[i] ^ second[i]) & all);
      first[i] = static_cast<Bits>(first[i] ^ difference);
      second[i] = static_cast<Bits>(second[i] ^ difference);
    }
    std::memcpy(&a, first, sizeof first);
    std::memcpy(&b, second, sizeof second);
  }
};

}  // namespace

template <typename T>
const MinmaxKernels<T>& minmax_portable() {
  return Loops<Lanes<T>, T>::kTable;
}

template const MinmaxKernels<float>& minmax_portable();
template const MinmaxKernels<double>& minmax_portable();
template const MinmaxKernels<BFloat16>& minmax_portable();
template const MinmaxKernels<Half>& minmax_portable();

}  // namespace gloro_fast::cpu
