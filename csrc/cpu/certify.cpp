#include "certify.h"

#include <cmath>
#include <limits>

#include "rounding.h"

#include "exact.h"

namespace gloro_fast::cpu {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSmallest = std::numeric_limits<double>::min();

// The first index of the largest; NaN counts as the largest.
template <typename T>
int64_t place_of_largest(const T* logits, int64_t classes) {
  int64_t place = 0;
  for (int64_t i = 0; i < classes; ++i) {
    if (std::isnan(logits[i])) return i;
    if (logits[i] > logits[place]) place = i;
  }
  return place;
}

// K_ij = K D_ij rounded up: exactly 0 only where a factor is, not finite where one is not.
double pair_bound(double difference, double lipschitz) {
  const double product = difference * lipschitz;
  if (!(difference > 0 && lipschitz > 0)) return product;
  const double above = next_up(product);
  return above < kSmallest ? kSmallest : above;
}

// What a row comes to before bottom and the top are set apart.
struct Signed {
  double radius;
  double bottom;  // rounded up
  bool finite;    // all logits are
};

template <typename T>
Signed signed_row(const T* logits, const double* differences, double lipschitz, double epsilon, int64_t classes,
                  int64_t j) {
  const auto top = static_cast<double>(logits[j]);
  double least = kInfinity;
  double highest = -kInfinity;
  bool finite = true;
  bool bounded = true;
  bool nan = false;
  bool limited = false;
  for (int64_t i = 0; i < classes; ++i) {
    const auto value = static_cast<double>(logits[i]);
    const double bound = pair_bound(differences[i], lipschitz);
    finite = finite && std::isfinite(value);
    bounded = bounded && std::isfinite(bound);
    if (i == j) continue;
    const double gap = top - value > 0 ? next_down(top - value) : 0;
    if (!(gap > 0 && bound == 0)) {
      // The next number below keeps the order, so it may wait until the least quotient is known.
      const double quotient = gap > 0 ? gap / bound : 0;
      least = quotient < least ? quotient : least;
      limited = true;
    }
    const double rise = bound * epsilon;
    const double candidate = value + (rise > 0 ? next_up(rise) : rise);
    nan = nan || std::isnan(candidate);
    highest = candidate > highest ? candidate : highest;
  }
  const double below = !limited ? kInfinity : least > 0 ? next_down(least) : 0;
  return {finite && bounded ? below : 0, nan ? std::numeric_limits<double>::quiet_NaN() : next_up(highest), finite};
}

// Moves bottom strictly below the top where certified and strictly above it elsewhere; NaN stays NaN.
template <typename T>
T set_apart(T bottom, T top, bool certified) {
  const T limit = certified ? next_down(top) : next_up(top);
  if (std::isnan(bottom) || std::isnan(limit)) return std::numeric_limits<T>::quiet_NaN();
  return (certified ? limit < bottom : limit > bottom) ? limit : bottom;
}

}  // namespace

template <typename T>
void certify(const T* logits, const double* differences, double lipschitz, double epsilon, int64_t classes,
             int64_t* prediction, double* radius, T* bottom, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* values = logits + row * classes;
    const int64_t j = place_of_largest(values, classes);
    const Signed result = signed_row(values, differences + j * classes, lipschitz, epsilon, classes, j);
    const bool certified = result.radius > epsilon;
    const T rounded = static_cast<T>(result.bottom);
    const bool usable = certified || (result.finite && std::isfinite(rounded));
    prediction[row] = j;
    radius[row] = result.radius;
    bottom[row] = usable ? set_apart(rounded, values[j], certified) : std::numeric_limits<T>::infinity();
  }
}

template void certify(const float*, const double*, double, double, int64_t, int64_t*, double*, float*, int64_t,
                      int64_t);
template void certify(const double*, const double*, double, double, int64_t, int64_t*, double*, double*, int64_t,
                      int64_t);

}  // namespace gloro_fast::cpu
