// Power iteration through all layers of a network at once, and the gradient of its estimates.
//
// Both give a schedule: every thread that shall work calls its work() once, and the results are written when the
// last of these calls returns. They are the same to the last bit for any number of threads; between instruction
// sets they differ by rounding. T, the type of the iterates, is float or double; weights may be of any type.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/power_iteration_layer.h"
#include "power_iteration_schedule.h"
#include "simd.h"

namespace gloro_fast::cpu {

// The iterates of one layer (layer.input_size() and layer.output_size() values).
template <typename T>
struct Iterates {
  const T* start;
  T* v;
  T* u;
};

// Takes `iterations` steps v <- A^T A v / ||A^T A v|| from the layers' `start`, and writes sigma = ||A v|| (one a
// layer), v and u = A v / ||A v||. Weights of 0 give sigma = 0, keep their v and have u = 0; NaN or infinite ones give
// NaN. `layers` must outlive the schedule.
template <typename T>
Schedule power_iteration(const std::vector<LinearLayer>& layers, const std::vector<Iterates<T>>& iterates,
                         int64_t iterations, Simd level, T* sigma);

// Writes grad_sigma[l] * d<u_l, A v_l>/dW to the weights of `layers`; v and u as power_iteration leaves them.
template <typename T>
Schedule power_iteration_gradient(const std::vector<LinearLayer>& layers, const T* grad_sigma,
                                  const std::vector<Iterates<T>>& iterates, Simd level);

}  // namespace gloro_fast::cpu
