// The hash of a tensor's bytes: the sum over its words of 8 bytes, each mixed together with its place.
//
//   word i, as a little-endian number   x = word + (i + 1) * step
//   mixed (splitmix64's finalizer)      x = (x ^ x >> 32) * m1;  x = (x ^ x >> 29) * m2;  x = x ^ x >> 32
//
// All arithmetic is modulo 2^64. Every step is a bijection, so that a change of any one word changes the sum; a
// sum has one value whatever the order, so that pieces may be added up from any number of threads. A last word
// that the bytes do not fill is filled up with zeros.
#pragma once

#include <cstdint>

namespace gloro_fast::cpu {

// The share of words [word_begin, word_end) of `bytes` bytes at `data`, which may have any alignment.
uint64_t fingerprint(const uint8_t* data, int64_t bytes, int64_t word_begin, int64_t word_end);

namespace detail {

inline constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
inline constexpr uint64_t kMultiplier1 = 0xbf58476d1ce4e5b9;
inline constexpr uint64_t kMultiplier2 = 0x94d049bb133111eb;

// The share of the full words [word_begin, word_end); their number is a multiple of 4 and 8.
uint64_t fingerprint_avx2(const uint8_t* data, int64_t word_begin, int64_t word_end);
uint64_t fingerprint_avx512(const uint8_t* data, int64_t word_begin, int64_t word_end);

}  // namespace detail

}  // namespace gloro_fast::cpu
