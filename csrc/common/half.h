// The two 16-bit float formats, as storage only: values are widened to float, worked on, and rounded back.
// Compilers disagree on which of these they offer as a type; sixteen bits and two functions work everywhere.
// The functions have internal linkage, so that every file keeps the copy of its own instruction set (simd.h).
#pragma once

#include <cstdint>
#include <cstring>

namespace gloro_fast::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

namespace {

namespace ieee {

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline bool is_nan(uint32_t float_bits) {
  return (float_bits & 0x7fffffffu) > 0x7f800000u;
}

}  // namespace ieee

inline float widen(float value) {
  return value;
}
inline double widen(double value) {
  return value;
}
inline float widen(BFloat16 value) {
  return ieee::float_of(uint32_t{value.bits} << 16);
}

inline float widen(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: fraction times 2^-24, exact in float
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t biased = exponent == 0x1fu ? 0xffu : exponent + (127 - 15);
  return ieee::float_of(sign | biased << 23 | fraction << 13);
}

// Round to nearest, ties to even; NaN stays NaN (made quiet).
template <typename T>
T narrow(decltype(widen(T{})) value);

template <>
inline float narrow<float>(float value) {
  return value;
}

template <>
inline double narrow<double>(double value) {
  return value;
}

template <>
inline BFloat16 narrow<BFloat16>(float value) {
  const uint32_t bits = ieee::bits_of(value);
  if (ieee::is_nan(bits)) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
inline Half narrow<Half>(float value) {
  const uint32_t bits = ieee::bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (ieee::is_nan(bits)) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds past 65504
  if (magnitude < 0x38800000u) {
    // Below 2^-14 a half is a multiple of 2^-24, which is the spacing of floats at 0.5: the addition rounds.
    const uint32_t shifted = ieee::bits_of(ieee::float_of(magnitude) + 0.5f);
    return {static_cast<uint16_t>(sign | (shifted - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | ((rounded >> 13) - ((127u - 15u) << 10)))};
}

}  // namespace

}  // namespace gloro_fast::cpu
