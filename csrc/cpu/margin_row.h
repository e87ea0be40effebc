// One row of logits, for margin.cpp and margin_loss.cpp. To be included last: see exact.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "../common/half.h"

#include "exact.h"

namespace gloro_fast::cpu {

inline constexpr int64_t kLanes = 8;

template <typename C>
inline constexpr C kInfinity = std::numeric_limits<C>::infinity();

template <typename C>
inline bool is_finite(C value) {
  return std::fabs(value) <= std::numeric_limits<C>::max();
}

// A row in the type of the computation, and room to work in, filled up to whole lanes.
template <typename C>
struct Row {
  explicit Row(int64_t classes)
      : classes(classes),
        padded((classes + kLanes - 1) / kLanes * kLanes),
        values(static_cast<size_t>(padded), -kInfinity<C>),
        quotients(static_cast<size_t>(padded), kInfinity<C>),
        candidates(static_cast<size_t>(padded), -kInfinity<C>) {}

  template <typename T>
  void load(const T* logits) {
    int bad = 0;
    for (int64_t i = 0; i < classes; ++i) {
      const C value = widen(logits[i]);
      values[static_cast<size_t>(i)] = value;
      bad |= !is_finite(value);
    }
    finite = bad == 0;
  }

  int64_t classes;
  int64_t padded;
  std::vector<C> values;      // -inf beyond the classes
  std::vector<C> quotients;   // +inf there
  std::vector<C> candidates;  // -inf there
  bool finite = false;        // all values are
};

template <typename C>
struct Margin {
  C top;
  C bottom;
  C radius;
  int64_t prediction;
  int64_t runner_up;  // -1: bottom is not finite and has no gradient
};

// The sum of a padded array, in a fixed order: lane by lane, the lanes in double.
template <typename C>
double sum_of(const C* values, int64_t padded) {
  C lanes[kLanes] = {};
  for (int64_t k = 0; k < padded; k += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += values[k + lane];
  }
  double sum = 0;
  for (const C lane : lanes) sum += static_cast<double>(lane);
  return sum;
}

// The largest (or, Better being std::less, the smallest) of a padded array without NaN.
template <template <typename> class Better, typename C>
C best_of(const C* values, int64_t padded) {
  const Better<C> better;
  C lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = values[lane];
  for (int64_t k = kLanes; k < padded; k += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const C value = values[k + lane];
      lanes[lane] = better(value, lanes[lane]) ? value : lanes[lane];
    }
  }
  C best = lanes[0];
  for (const C lane : lanes) best = better(lane, best) ? lane : best;
  return best;
}

// The first place of the largest of a padded array without NaN.
template <typename C>
int64_t place_of_largest(const C* values, int64_t padded) {
  const C largest = best_of<std::greater>(values, padded);
  int64_t place = 0;
  while (values[place] != largest) ++place;
  return place;
}

// The same as torch.argmax: NaN counts as the largest, the first of equals wins.
template <typename C>
int64_t place_of_largest_or_nan(const C* values, int64_t count) {
  int64_t place = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(values[i])) return i;
    if (values[i] > values[place]) place = i;
  }
  return place;
}

// Moves bottom strictly below top where certified and strictly above it elsewhere; NaN stays NaN.
template <typename C>
C reconciled(C bottom, C top, bool certified) {
  const C limit = std::nextafter(top, certified ? -kInfinity<C> : kInfinity<C>);
  if (std::isnan(limit)) return limit;
  return (certified ? limit < bottom : limit > bottom) ? limit : bottom;
}

// The row's margin where something is not finite: radius 0, and bottom whatever arithmetic makes of it.
template <typename C>
Margin<C> margin_in_doubt(Row<C>& row, const C* differences, C lipschitz, C epsilon) {
  const C* values = row.values.data();
  const int64_t j = place_of_largest_or_nan(values, row.classes);
  const C* distance = differences + j * row.classes;
  C* candidates = row.candidates.data();
  for (int64_t i = 0; i < row.classes; ++i) candidates[i] = values[i] + epsilon * (lipschitz * distance[i]);
  candidates[j] = -kInfinity<C>;
  const int64_t i = place_of_largest_or_nan(candidates, row.classes);
  const C raw = values[i] + epsilon * (lipschitz * distance[i]);
  const C radius = 0;
  return {values[j], reconciled(raw, values[j], radius > epsilon), radius, j, is_finite(raw) ? i : -1};
}

template <typename C>
Margin<C> margin_of(Row<C>& row, const C* differences, C lipschitz, C epsilon) {
  if (!row.finite || !is_finite(epsilon)) return margin_in_doubt(row, differences, lipschitz, epsilon);
  const C* values = row.values.data();
  const int64_t j = place_of_largest(values, row.padded);
  const C top = values[j];
  const C* distance = differences + j * row.classes;
  C* quotients = row.quotients.data();
  C* candidates = row.candidates.data();
  int bad = 0;
  for (int64_t i = 0; i < row.classes; ++i) {
    const C slope = lipschitz * distance[i];
    const C gap = top - values[i];
    const C quotient = gap / slope;
    bad |= !is_finite(slope) | !is_finite(gap);
    quotients[i] = gap > 0 ? quotient : 0;
    candidates[i] = values[i] + epsilon * slope;
  }
  if (bad != 0) return margin_in_doubt(row, differences, lipschitz, epsilon);
  quotients[j] = kInfinity<C>;
  candidates[j] = -kInfinity<C>;
  const C radius = best_of<std::less>(quotients, row.padded);
  const int64_t i = place_of_largest(candidates, row.padded);
  const C raw = candidates[i];
  return {top, reconciled(raw, top, radius > epsilon), radius, j, is_finite(raw) ? i : -1};
}

}  // namespace gloro_fast::cpu
