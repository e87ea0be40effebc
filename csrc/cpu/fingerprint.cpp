#include "fingerprint.h"

#include <cstring>

#include "simd.h"

namespace gloro_fast::cpu {

namespace {

uint64_t mixed(uint64_t word, int64_t index) {
  uint64_t x = word + (static_cast<uint64_t>(index) + 1) * detail::kStep;
  x = (x ^ (x >> 32)) * detail::kMultiplier1;
  x = (x ^ (x >> 29)) * detail::kMultiplier2;
  return x ^ (x >> 32);
}

uint64_t word_at(const uint8_t* data, int64_t bytes) {
  uint64_t word = 0;
  std::memcpy(&word, data, static_cast<size_t>(bytes));
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

// Without 64-bit products in vector registers, scalar code is faster than what the vectorizer makes of it.
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-tree-vectorize")))
#endif
uint64_t full_words(const uint8_t* data, int64_t word_begin, int64_t word_end) {
  uint64_t sum = 0;
  for (int64_t i = word_begin; i < word_end; ++i) sum += mixed(word_at(data + 8 * i, 8), i);
  return sum;
}

}  // namespace

uint64_t fingerprint(const uint8_t* data, int64_t bytes, int64_t word_begin, int64_t word_end) {
  const int64_t full_end = word_end < bytes / 8 ? word_end : bytes / 8;
  uint64_t sum = 0;
  int64_t begin = word_begin;
#if defined(__x86_64__)
  const Simd level = full_end - begin >= 8 ? simd_level() : Simd::portable;
  if (level != Simd::portable) {
    const int64_t end = begin + (full_end - begin) / 8 * 8;
    sum += (level == Simd::avx512 ? detail::fingerprint_avx512 : detail::fingerprint_avx2)(data, begin, end);
    begin = end;
  }
#endif
  sum += full_words(data, begin, full_end);
  if (word_begin <= full_end && full_end < word_end)
    sum += mixed(word_at(data + 8 * full_end, bytes - 8 * full_end), full_end);
  return sum;
}

}  // namespace gloro_fast::cpu
