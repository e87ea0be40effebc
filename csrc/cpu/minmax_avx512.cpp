// MinMax with AVX-512: a block is one register of floats, half a register of 16-bit values.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own headers (its bug 105593)
#endif
#include <immintrin.h>

#include "minmax_loops.h"

namespace gloro_fast::cpu {

namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

inline __mmask32 first_lanes(int64_t n) {
  return static_cast<__mmask32>((uint64_t{1} << n) - 1);
}

struct Common {
  static constexpr bool kStreams = true;
  static constexpr int kColumn = 2;  // 1 takes 15 % longer on large outputs, 4 takes 5 % (measured)
  static void fence() { _mm_sfence(); }
};

template <typename T>
struct Lanes;

template <>
struct Lanes<float> : Common {
  using Raw = __m512;
  using Wide = __m512;

  static Raw load(const float* p) { return _mm512_loadu_ps(p); }
  static Raw load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(low_lanes(n), p); }
  static void store(float* p, Raw a) { _mm512_storeu_ps(p, a); }
  static void store(float* p, Raw a, int64_t n) { _mm512_mask_storeu_ps(p, low_lanes(n), a); }
  static void stream(float* p, Raw a) { _mm512_stream_ps(p, a); }
  static void load_pairs(const float* p, Raw& a, Raw& b) { split(load(p), load(p + 16), a, b); }
  static void load_pairs(const float* p, int64_t n, Raw& a, Raw& b) {
    split(load(p, 2 * n), _mm512_maskz_loadu_ps(high_lanes(2 * n), p + 16), a, b);
  }
  static void store_pairs(float* p, Raw a, Raw b) {
    store(p, joined_low(a, b));
    store(p + 16, joined_high(a, b));
  }
  static void store_pairs(float* p, int64_t n, Raw a, Raw b) {
    store(p, joined_low(a, b), 2 * n);
    _mm512_mask_storeu_ps(p + 16, high_lanes(2 * n), joined_high(a, b));
  }
  static void stream_pairs(float* p, Raw a, Raw b) {
    stream(p, joined_low(a, b));
    stream(p + 16, joined_high(a, b));
  }
  static unsigned in_order(unsigned bits) { return bits; }

  class Shift {
   public:
    explicit Shift(int64_t n)
        : from_(_mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(16 - n)),
                                 _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))) {}
    Raw operator()(Raw a) {
      const Raw before = before_;
      before_ = a;
      return _mm512_permutex2var_ps(before, from_, a);
    }

   private:
    __m512i from_;
    Raw before_{};
  };

  static Raw broadcast(float value) { return _mm512_set1_ps(value); }
  static Raw plus(Raw a, Raw b) { return _mm512_add_ps(a, b); }
  static unsigned sort(Raw& a, Raw& b) {
    const __mmask16 swap = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
    const __mmask16 nan = _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
    route(swap, a, b);
    const __m512 quiet = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000));
    a = _mm512_mask_mov_ps(a, nan, quiet);
    b = _mm512_mask_mov_ps(b, nan, quiet);
    return swap;
  }
  static void route(unsigned bits, Raw& a, Raw& b) {
    const __m512 first = a;
    a = _mm512_mask_mov_ps(a, static_cast<__mmask16>(bits), b);
    b = _mm512_mask_mov_ps(b, static_cast<__mmask16>(bits), first);
  }

  static Wide zero() { return _mm512_setzero_ps(); }
  static Wide add(Wide sums, Raw a) { return _mm512_add_ps(sums, a); }
  static float total(Wide sums) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static Wide load_sums(const float* p) { return _mm512_loadu_ps(p); }
  static void store_sums(float* p, Wide sums) { _mm512_storeu_ps(p, sums); }
  static void store_sums_of_pairs(float* p, Wide a, Wide b) { store_pairs(p, a, b); }

 private:
  // Of n lanes in two registers, those in the first and those in the second.
  static __mmask16 low_lanes(int64_t n) { return static_cast<__mmask16>(first_lanes(n)); }
  static __mmask16 high_lanes(int64_t n) { return static_cast<__mmask16>(first_lanes(n) >> 16); }

  static void split(__m512 low, __m512 high, Raw& a, Raw& b) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    a = _mm512_permutex2var_ps(low, even, high);
    b = _mm512_permutex2var_ps(low, odd, high);
  }
  static __m512 joined_low(Raw a, Raw b) {
    const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, order, b);
  }
  static __m512 joined_high(Raw a, Raw b) {
    const __m512i order = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a, order, b);
  }
};

inline __m512 widened(BFloat16, __m256i raw) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}

inline __m256i narrowed(BFloat16, __m512 wide) {
  const __m512i bits = _mm512_castps_si512(wide);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(wide, wide, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), 16));
}

inline __m256i quiet_nan(BFloat16) {
  return _mm256_set1_epi16(0x7fc0);
}

inline __m512 widened(Half, __m256i raw) {
  return _mm512_cvtph_ps(raw);
}

inline __m256i narrowed(Half, __m512 wide) {
  return _mm512_cvtps_ph(wide, kNearest);
}

inline __m256i quiet_nan(Half) {
  return _mm256_set1_epi16(0x7e00);
}

// A pair of 16-bit values is a 32-bit word with the first member below.
template <typename T>
struct Lanes : Common {
  using Raw = __m256i;
  using Wide = __m512;
  using Float = Lanes<float>;

  static Raw load(const T* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Raw load(const T* p, int64_t n) { return _mm256_maskz_loadu_epi16(lanes(n), p); }
  static void store(T* p, Raw a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static void store(T* p, Raw a, int64_t n) { _mm256_mask_storeu_epi16(p, lanes(n), a); }
  static void stream(T* p, Raw a) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), a); }
  static void load_pairs(const T* p, Raw& a, Raw& b) { split(_mm512_loadu_si512(p), a, b); }
  static void load_pairs(const T* p, int64_t n, Raw& a, Raw& b) { split(_mm512_maskz_loadu_epi32(lanes(n), p), a, b); }
  static void store_pairs(T* p, Raw a, Raw b) { _mm512_storeu_si512(p, joined(a, b)); }
  static void store_pairs(T* p, int64_t n, Raw a, Raw b) { _mm512_mask_storeu_epi32(p, lanes(n), joined(a, b)); }
  static void stream_pairs(T* p, Raw a, Raw b) { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), joined(a, b)); }
  static unsigned in_order(unsigned bits) { return bits; }

  static Raw broadcast(T value) { return _mm256_set1_epi16(static_cast<int16_t>(value.bits)); }
  static Raw plus(Raw a, Raw b) { return narrowed(T{}, _mm512_add_ps(widened(T{}, a), widened(T{}, b))); }
  static unsigned sort(Raw& a, Raw& b) {
    const __m512 first = widened(T{}, a);
    const __m512 second = widened(T{}, b);
    const __mmask16 swap = _mm512_cmp_ps_mask(first, second, _CMP_GT_OQ);
    const __mmask16 nan = _mm512_cmp_ps_mask(first, second, _CMP_UNORD_Q);
    route(swap, a, b);
    a = _mm256_mask_mov_epi16(a, nan, quiet_nan(T{}));
    b = _mm256_mask_mov_epi16(b, nan, quiet_nan(T{}));
    return swap;
  }
  static void route(unsigned bits, Raw& a, Raw& b) {
    const __m256i first = a;
    a = _mm256_mask_mov_epi16(a, static_cast<__mmask16>(bits), b);
    b = _mm256_mask_mov_epi16(b, static_cast<__mmask16>(bits), first);
  }

  static Wide zero() { return Float::zero(); }
  static Wide add(Wide sums, Raw a) { return _mm512_add_ps(sums, widened(T{}, a)); }
  static float total(Wide sums) { return Float::total(sums); }
  static Wide load_sums(const float* p) { return Float::load_sums(p); }
  static void store_sums(float* p, Wide sums) { Float::store_sums(p, sums); }
  static void store_sums_of_pairs(float* p, Wide a, Wide b) { Float::store_pairs(p, a, b); }

 private:
  static __mmask16 lanes(int64_t n) { return static_cast<__mmask16>(first_lanes(n)); }
  static void split(__m512i words, Raw& a, Raw& b) {
    a = _mm512_cvtepi32_epi16(words);
    b = _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16));
  }
  static __m512i joined(Raw a, Raw b) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
  }
};

}  // namespace

template <typename T>
const MinmaxKernels<T>& minmax_avx512() {
  return Loops<Lanes<T>, T>::kTable;
}

template const MinmaxKernels<float>& minmax_avx512();
template const MinmaxKernels<BFloat16>& minmax_avx512();
template const MinmaxKernels<Half>& minmax_avx512();

}  // namespace gloro_fast::cpu
