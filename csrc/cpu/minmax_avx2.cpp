// MinMax with AVX2 for float and double: a block is two registers of the one, four of the other.
#include "minmax_lanes_avx2.h"

namespace gloro_fast::cpu {

namespace {

template <>
struct Lanes<double> : Common {
  static constexpr int kParts = 4;
  struct Raw {
    __m256d part[kParts];
  };
  using Wide = Raw;

  static Raw load(const double* p, int64_t n = 16) {
    Raw a;
    for (int i = 0; i < kParts; ++i) a.part[i] = load_part(p, n, i);
    return a;
  }
  static void store(double* p, const Raw& a, int64_t n = 16) {
    for (int i = 0; i < kParts; ++i) store_part(p, n, i, a.part[i]);
  }
  static void stream(double* p, const Raw& a) {
    for (int i = 0; i < kParts; ++i) _mm256_stream_pd(p + 4 * i, a.part[i]);
  }
  static void load_pairs(const double* p, Raw& a, Raw& b) { load_pairs(p, 16, a, b); }
  static void load_pairs(const double* p, int64_t n, Raw& a, Raw& b) {
    for (int i = 0; i < kParts; ++i) {
      const __m256d low = load_part(p, 2 * n, 2 * i);
      const __m256d high = load_part(p, 2 * n, 2 * i + 1);
      a.part[i] = _mm256_unpacklo_pd(low, high);
      b.part[i] = _mm256_unpackhi_pd(low, high);
    }
  }
  static void store_pairs(double* p, const Raw& a, const Raw& b) { store_pairs(p, 16, a, b); }
  static void store_pairs(double* p, int64_t n, const Raw& a, const Raw& b) {
    for (int i = 0; i < kParts; ++i) {
      store_part(p, 2 * n, 2 * i, _mm256_unpacklo_pd(a.part[i], b.part[i]));
      store_part(p, 2 * n, 2 * i + 1, _mm256_unpackhi_pd(a.part[i], b.part[i]));
    }
  }
  static void stream_pairs(double* p, const Raw& a, const Raw& b) {
    for (int i = 0; i < kParts; ++i) {
      _mm256_stream_pd(p + 8 * i, _mm256_unpacklo_pd(a.part[i], b.part[i]));
      _mm256_stream_pd(p + 8 * i + 4, _mm256_unpackhi_pd(a.part[i], b.part[i]));
    }
  }
  // Unpacking takes pairs 0 2 1 3.
  static unsigned in_order(unsigned bits) { return (bits & 0x9999u) | (bits & 0x2222u) << 1 | (bits & 0x4444u) >> 1; }

  class Shift {
   public:
    explicit Shift(int64_t n) : words_(2 * n) {}
    Raw operator()(Raw a) {
      for (__m256d& part : a.part) part = _mm256_castps_pd(words_(_mm256_castpd_ps(part)));
      return a;
    }

   private:
    ShiftedWords words_;
  };

  static Raw broadcast(double value) {
    Raw a;
    for (__m256d& part : a.part) part = _mm256_set1_pd(value);
    return a;
  }
  static Raw plus(Raw a, const Raw& b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = _mm256_add_pd(a.part[i], b.part[i]);
    return a;
  }
  static unsigned sort(Raw& a, Raw& b) {
    const __m256d quiet = _mm256_castsi256_pd(_mm256_set1_epi64x(0x7ff8000000000000));
    unsigned bits = 0;
    for (int i = 0; i < kParts; ++i) {
      const __m256d first = a.part[i];
      const __m256d second = b.part[i];
      const __m256d nan = _mm256_cmp_pd(first, second, _CMP_UNORD_Q);
      bits |= static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd(first, second, _CMP_GT_OQ))) << 4 * i;
      a.part[i] = _mm256_blendv_pd(_mm256_min_pd(second, first), quiet, nan);
      b.part[i] = _mm256_blendv_pd(_mm256_max_pd(first, second), quiet, nan);
    }
    return bits;
  }
  static void route(unsigned bits, Raw& a, Raw& b) {
    const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8);
    for (int i = 0; i < kParts; ++i) {
      const __m256i mine = _mm256_and_si256(_mm256_set1_epi64x(bits >> 4 * i), bit);
      const __m256d swap = _mm256_castsi256_pd(_mm256_cmpeq_epi64(mine, bit));
      const __m256d first = a.part[i];
      a.part[i] = _mm256_blendv_pd(first, b.part[i], swap);
      b.part[i] = _mm256_blendv_pd(b.part[i], first, swap);
    }
  }

  static Wide zero() { return broadcast(0); }
  static Wide add(const Wide& sums, const Raw& a) { return plus(sums, a); }
  static double total(const Wide& sums) {
    const __m256d low = _mm256_add_pd(sums.part[0], sums.part[2]);
    const __m256d high = _mm256_add_pd(sums.part[1], sums.part[3]);
    const __m256d four = _mm256_add_pd(low, high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
  static Wide load_sums(const double* p) { return load(p); }
  static void store_sums(double* p, const Wide& sums) { store(p, sums); }
  static void store_sums_of_pairs(double* p, const Wide& a, const Wide& b) { store_pairs(p, a, b); }
};

}  // namespace

template <typename T>
const MinmaxKernels<T>& minmax_avx2() {
  return Loops<Lanes<T>, T>::kTable;
}

template const MinmaxKernels<float>& minmax_avx2();
template const MinmaxKernels<double>& minmax_avx2();

}  // namespace gloro_fast::cpu
