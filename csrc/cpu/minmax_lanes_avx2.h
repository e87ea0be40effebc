// Blocks of floats with AVX2, two registers each, and what the other types share with them.
#pragma once

#include <immintrin.h>

#include "minmax_loops.h"

namespace gloro_fast::cpu {

namespace {

// Register `part` of n lanes that fill registers of 8 (or 4) one after the other, as masks of all ones.
inline __m256i lanes_of_8(int64_t n, int part) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n) - 8 * part), lane);
}

inline __m256i lanes_of_4(int64_t n, int part) {
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n - 4 * part), lane);
}

// That register from and to memory; no masks where it is full, since they are slow on some processors.
inline __m256 load_part(const float* p, int64_t n, int part) {
  if (n >= 8 * part + 8) return _mm256_loadu_ps(p + 8 * part);
  return _mm256_maskload_ps(p + 8 * part, lanes_of_8(n, part));
}

inline void store_part(float* p, int64_t n, int part, __m256 value) {
  if (n >= 8 * part + 8) return _mm256_storeu_ps(p + 8 * part, value);
  _mm256_maskstore_ps(p + 8 * part, lanes_of_8(n, part), value);
}

inline __m256d load_part(const double* p, int64_t n, int part) {
  if (n >= 4 * part + 4) return _mm256_loadu_pd(p + 4 * part);
  return _mm256_maskload_pd(p + 4 * part, lanes_of_4(n, part));
}

inline void store_part(double* p, int64_t n, int part, __m256d value) {
  if (n >= 4 * part + 4) return _mm256_storeu_pd(p + 4 * part, value);
  _mm256_maskstore_pd(p + 4 * part, lanes_of_4(n, part), value);
}

struct Common {
  static constexpr bool kStreams = true;
  static constexpr int kColumn = 2;
  static void fence() { _mm_sfence(); }
};

// Registers one after the other, shifted up by n words of 32 bits, 0 <= n < 16: each gives the last n words before it,
// as far as it holds them, and then its own first ones.
class ShiftedWords {
 public:
  explicit ShiftedWords(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i count = _mm256_set1_epi32(static_cast<int>(n % 8));
    from_ = _mm256_sub_epi32(lane, count);  // of which the permutation looks at three bits
    below_ = _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, lane));
    is_late_ = _mm256_castsi256_ps(_mm256_set1_epi32(n < 8 ? 0 : -1));
  }
  [[gnu::always_inline]] __m256 operator()(__m256 a) {
    const __m256 turned = _mm256_permutevar8x32_ps(a, from_);
    const __m256 shifted = _mm256_blendv_ps(turned, turned_before_, below_);
    const __m256 result = _mm256_blendv_ps(shifted, shifted_before_, is_late_);
    turned_before_ = turned;
    shifted_before_ = shifted;
    return result;
  }

 private:
  __m256i from_;
  __m256 below_, is_late_;
  __m256 turned_before_{}, shifted_before_{};
};

template <typename T>
struct Lanes;

template <>
struct Lanes<float> : Common {
  static constexpr int kParts = 2;
  struct Raw {
    __m256 part[kParts];
  };
  using Wide = Raw;

  static Raw load(const float* p, int64_t n = 16) { return {{load_part(p, n, 0), load_part(p, n, 1)}}; }
  static void store(float* p, const Raw& a, int64_t n = 16) {
    for (int i = 0; i < kParts; ++i) store_part(p, n, i, a.part[i]);
  }
  static void stream(float* p, const Raw& a) {
    for (int i = 0; i < kParts; ++i) _mm256_stream_ps(p + 8 * i, a.part[i]);
  }
  static void load_pairs(const float* p, Raw& a, Raw& b) { load_pairs(p, 16, a, b); }
  static void load_pairs(const float* p, int64_t n, Raw& a, Raw& b) {
    for (int i = 0; i < kParts; ++i) {
      const __m256 low = load_part(p, 2 * n, 2 * i);
      const __m256 high = load_part(p, 2 * n, 2 * i + 1);
      a.part[i] = _mm256_shuffle_ps(low, high, 0x88);
      b.part[i] = _mm256_shuffle_ps(low, high, 0xdd);
    }
  }
  static void store_pairs(float* p, const Raw& a, const Raw& b) { store_pairs(p, 16, a, b); }
  static void store_pairs(float* p, int64_t n, const Raw& a, const Raw& b) {
    for (int i = 0; i < kParts; ++i) {
      store_part(p, 2 * n, 2 * i, _mm256_unpacklo_ps(a.part[i], b.part[i]));
      store_part(p, 2 * n, 2 * i + 1, _mm256_unpackhi_ps(a.part[i], b.part[i]));
    }
  }
  static void stream_pairs(float* p, const Raw& a, const Raw& b) {
    for (int i = 0; i < kParts; ++i) {
      _mm256_stream_ps(p + 16 * i, _mm256_unpacklo_ps(a.part[i], b.part[i]));
      _mm256_stream_ps(p + 16 * i + 8, _mm256_unpackhi_ps(a.part[i], b.part[i]));
    }
  }
  // The shuffles take pairs 0 1 4 5 2 3 6 7: putting the bits right is cheaper than putting the lanes right.
  static unsigned in_order(unsigned bits) { return (bits & 0xc3c3u) | (bits & 0x0c0cu) << 2 | (bits & 0x3030u) >> 2; }

  class Shift {
   public:
    explicit Shift(int64_t n) : words_(n) {}
    Raw operator()(Raw a) {
      for (__m256& part : a.part) part = words_(part);
      return a;
    }

   private:
    ShiftedWords words_;
  };

  static Raw broadcast(float value) { return {{_mm256_set1_ps(value), _mm256_set1_ps(value)}}; }
  static Raw plus(const Raw& a, const Raw& b) {
    return {{_mm256_add_ps(a.part[0], b.part[0]), _mm256_add_ps(a.part[1], b.part[1])}};
  }
  static unsigned sort(Raw& a, Raw& b) {
    const __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    unsigned bits = 0;
    for (int i = 0; i < kParts; ++i) {
      const __m256 first = a.part[i];
      const __m256 second = b.part[i];
      const __m256 nan = _mm256_cmp_ps(first, second, _CMP_UNORD_Q);
      bits |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(first, second, _CMP_GT_OQ))) << 8 * i;
      // Where the two are equal these give their second operand, so that ties stay.
      a.part[i] = _mm256_blendv_ps(_mm256_min_ps(second, first), quiet, nan);
      b.part[i] = _mm256_blendv_ps(_mm256_max_ps(first, second), quiet, nan);
    }
    return bits;
  }
  static void route(unsigned bits, Raw& a, Raw& b) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (int i = 0; i < kParts; ++i) {
      const __m256i mine = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits >> 8 * i)), bit);
      const __m256 swap = _mm256_castsi256_ps(_mm256_cmpeq_epi32(mine, bit));
      const __m256 first = a.part[i];
      a.part[i] = _mm256_blendv_ps(first, b.part[i], swap);
      b.part[i] = _mm256_blendv_ps(b.part[i], first, swap);
    }
  }

  static Wide zero() { return broadcast(0); }
  static Wide add(const Wide& sums, const Raw& a) { return plus(sums, a); }
  static float total(const Wide& sums) {
    const __m256 eight = _mm256_add_ps(sums.part[0], sums.part[1]);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static Wide load_sums(const float* p) { return load(p); }
  static void store_sums(float* p, const Wide& sums) { store(p, sums); }
  static void store_sums_of_pairs(float* p, const Wide& a, const Wide& b) { store_pairs(p, a, b); }
};

}  // namespace

}  // namespace gloro_fast::cpu
