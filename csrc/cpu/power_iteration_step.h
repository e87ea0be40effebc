// What one step of power iteration does with a norm, for every kind of layer.
//
// An iterate is divided by its norm only where that has left a comfortable range, and at the end: the scale of an
// iterate changes nothing about its direction, and the passes over memory are saved. Norms are taken in a wider
// type (Sum), in which no square vanishes or overflows.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "power_iteration_kernels.h"

namespace gloro_fast::cpu {

// Where a layer's part of the results goes. `u` has unit norm, or is A v itself where that is 0 or NaN.
template <typename T>
struct Results {
  T* sigma;
  T* v;
  T* u;
};

// Whether a vector of this norm has a direction.
inline bool usable(double norm) {
  return norm > 0 && norm < std::numeric_limits<double>::infinity();
}

// Whether a vector of this norm may go through another layer without being divided by it.
inline bool comfortable(double norm) {
  return norm >= 0x1p-20 && norm <= 0x1p20;
}

// The factor that gives a vector of this norm unit length: 1 where it has no direction, NaN for an infinite one.
inline double unit_scale(double norm) {
  if (std::isinf(norm)) return std::numeric_limits<double>::quiet_NaN();
  return usable(norm) ? 1 / norm : 1;
}

// sigma = ||A v|| / ||v||, NaN where A v overflowed.
inline double estimate(double image_norm, double norm) {
  return std::isinf(image_norm) ? std::numeric_limits<double>::quiet_NaN() : image_norm / norm;
}

// The l2 norm from sums of squares, added in order.
template <typename T>
double norm_of(const Sum<T>* squares, int64_t count) {
  Sum<T> total = 0;
  for (int64_t i = 0; i < count; ++i) total += squares[i];
  return static_cast<double>(std::sqrt(total));
}

template <typename T>
void multiply(T* x, int64_t size, double scale) {
  for (int64_t i = 0; i < size; ++i) x[i] = static_cast<T>(x[i] * scale);
}

}  // namespace gloro_fast::cpu
