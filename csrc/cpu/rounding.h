// The neighbours of a floating-point number, by its bits: the same as std::nextafter, whatever the state of the
// processor (flushing of subnormals, rounding).
#pragma once

#include <cstdint>
#include <cstring>

namespace gloro_fast::cpu {

namespace detail {

template <typename T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using Type = uint32_t;
  static constexpr Type kSign = 0x80000000u;
  static constexpr Type kInfinity = 0x7f800000u;
};
template <>
struct BitsOf<double> {
  using Type = uint64_t;
  static constexpr Type kSign = 0x8000000000000000u;
  static constexpr Type kInfinity = 0x7ff0000000000000u;
};

}  // namespace detail

// The next number above x; infinity and NaN stay.
template <typename T>
T next_up(T x) {
  using Bits = detail::BitsOf<T>;
  typename Bits::Type bits;
  std::memcpy(&bits, &x, sizeof bits);
  const auto magnitude = static_cast<typename Bits::Type>(bits & ~Bits::kSign);
  if (magnitude > Bits::kInfinity || bits == Bits::kInfinity) return x;
  if (magnitude == 0) {
    bits = 1;
  } else {
    bits += (bits & Bits::kSign) != 0 ? static_cast<typename Bits::Type>(-1) : 1;
  }
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The next number below x; minus infinity and NaN stay.
template <typename T>
T next_down(T x) {
  return -next_up(-x);
}

}  // namespace gloro_fast::cpu
