// MinMax with AVX2, and F16C for half, for the 16-bit types: a block is one register.
#include "minmax_lanes_avx2.h"

namespace gloro_fast::cpu {

namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// Sixteen words of 32 bits, each below 2^16, as 16 bits.
inline __m256i in_one(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
}

inline __m256 widened(BFloat16, __m128i raw) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}

inline __m256i narrowed(BFloat16, __m256 wide) {  // to words of 32 bits
  const __m256i bits = _mm256_castps_si256(wide);
  const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
  const __m256 nan = _mm256_cmp_ps(wide, wide, _CMP_UNORD_Q);
  const __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  return _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, nan)), 16);
}

inline __m256i quiet_nan(BFloat16) {
  return _mm256_set1_epi16(0x7fc0);
}

inline __m256 widened(Half, __m128i raw) {
  return _mm256_cvtph_ps(raw);
}

inline __m256i narrowed(Half, __m256 wide) {
  return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(wide, kNearest));
}

inline __m256i quiet_nan(Half) {
  return _mm256_set1_epi16(0x7e00);
}

// A pair of 16-bit values is a 32-bit word with the first member below.
template <typename T>
struct Lanes : Common {
  using Raw = __m256i;
  using Wide = Lanes<float>::Wide;

  static Raw load(const T* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Raw load(const T* p, int64_t n) {
    T values[kPairsPerBlock] = {};  // there are no masked loads of 16 bits
    for (int64_t i = 0; i < n; ++i) values[i] = p[i];
    return load(values);
  }
  static void store(T* p, Raw a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static void store(T* p, Raw a, int64_t n) {
    T values[kPairsPerBlock];
    store(values, a);
    for (int64_t i = 0; i < n; ++i) p[i] = values[i];
  }
  static void stream(T* p, Raw a) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), a); }
  static void load_pairs(const T* p, Raw& a, Raw& b) { load_pairs(p, kPairsPerBlock, a, b); }
  static void load_pairs(const T* p, int64_t n, Raw& a, Raw& b) {
    const auto* words = reinterpret_cast<const float*>(p);
    const __m256i low = _mm256_castps_si256(load_part(words, n, 0));
    const __m256i high = _mm256_castps_si256(load_part(words, n, 1));
    const __m256i below = _mm256_set1_epi32(0xffff);
    a = in_one(_mm256_and_si256(low, below), _mm256_and_si256(high, below));
    b = in_one(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
  }
  static void store_pairs(T* p, Raw a, Raw b) { store_pairs(p, kPairsPerBlock, a, b); }
  static void store_pairs(T* p, int64_t n, Raw a, Raw b) {
    auto* words = reinterpret_cast<float*>(p);
    store_part(words, n, 0, joined(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b)));
    store_part(words, n, 1, joined(_mm256_extracti128_si256(a, 1), _mm256_extracti128_si256(b, 1)));
  }
  static void stream_pairs(T* p, Raw a, Raw b) {
    auto* words = reinterpret_cast<float*>(p);
    _mm256_stream_ps(words, joined(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b)));
    _mm256_stream_ps(words + 8, joined(_mm256_extracti128_si256(a, 1), _mm256_extracti128_si256(b, 1)));
  }
  static unsigned in_order(unsigned bits) { return bits; }

  static Raw broadcast(T value) { return _mm256_set1_epi16(static_cast<int16_t>(value.bits)); }
  static Raw plus(Raw a, Raw b) {
    const Wide sum = Lanes<float>::plus(wide(a), wide(b));
    return in_one(narrowed(T{}, sum.part[0]), narrowed(T{}, sum.part[1]));
  }
  static unsigned sort(Raw& a, Raw& b) {
    const Wide first = wide(a);
    const Wide second = wide(b);
    __m256i swap[2], nan[2];
    unsigned bits = 0;
    for (int i = 0; i < 2; ++i) {
      swap[i] = _mm256_castps_si256(_mm256_cmp_ps(first.part[i], second.part[i], _CMP_GT_OQ));
      nan[i] = _mm256_castps_si256(_mm256_cmp_ps(first.part[i], second.part[i], _CMP_UNORD_Q));
      bits |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(swap[i]))) << 8 * i;
    }
    exchange(lanes_of_16_bits(swap[0], swap[1]), a, b);
    const __m256i either_nan = lanes_of_16_bits(nan[0], nan[1]);
    a = _mm256_blendv_epi8(a, quiet_nan(T{}), either_nan);
    b = _mm256_blendv_epi8(b, quiet_nan(T{}), either_nan);
    return bits;
  }
  static void route(unsigned bits, Raw& a, Raw& b) {
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    const __m256i mine = _mm256_and_si256(_mm256_set1_epi16(static_cast<int16_t>(bits)), bit);
    exchange(_mm256_cmpeq_epi16(mine, bit), a, b);
  }

  static Wide zero() { return Lanes<float>::zero(); }
  static Wide add(const Wide& sums, Raw a) { return Lanes<float>::plus(sums, wide(a)); }
  static float total(const Wide& sums) { return Lanes<float>::total(sums); }
  static Wide load_sums(const float* p) { return Lanes<float>::load(p); }
  static void store_sums(float* p, const Wide& sums) { Lanes<float>::store(p, sums); }
  static void store_sums_of_pairs(float* p, const Wide& a, const Wide& b) {
    for (int i = 0; i < 2; ++i) {
      const __m256 low = _mm256_unpacklo_ps(a.part[i], b.part[i]);
      const __m256 high = _mm256_unpackhi_ps(a.part[i], b.part[i]);
      _mm256_storeu_ps(p + 16 * i, _mm256_permute2f128_ps(low, high, 0x20));
      _mm256_storeu_ps(p + 16 * i + 8, _mm256_permute2f128_ps(low, high, 0x31));
    }
  }

 private:
  static Wide wide(Raw a) {
    return {{widened(T{}, _mm256_castsi256_si128(a)), widened(T{}, _mm256_extracti128_si256(a, 1))}};
  }
  static __m256i lanes_of_16_bits(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  }
  static void exchange(__m256i swap, Raw& a, Raw& b) {
    const __m256i first = a;
    a = _mm256_blendv_epi8(a, b, swap);
    b = _mm256_blendv_epi8(b, first, swap);
  }
  static __m256 joined(__m128i a, __m128i b) {
    const __m256i above = _mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16);
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_cvtepu16_epi32(a), above));
  }
};

}  // namespace

template <typename T>
const MinmaxKernels<T>& minmax_avx2() {
  return Loops<Lanes<T>, T>::kTable;
}

template const MinmaxKernels<BFloat16>& minmax_avx2();
template const MinmaxKernels<Half>& minmax_avx2();

}  // namespace gloro_fast::cpu
