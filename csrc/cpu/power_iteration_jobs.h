// Power iteration of one layer, and the gradient of its estimate, as jobs for the schedule.
#pragma once

#include <cstdint>
#include <memory>

#include "../common/power_iteration_layer.h"
#include "power_iteration_kernels.h"
#include "power_iteration_schedule.h"
#include "power_iteration_step.h"

namespace gloro_fast::cpu {

// Starts from v (layer.input_size() values); `layer` and the memory must outlive the job.
template <typename T>
std::unique_ptr<Job> conv_iteration(const LinearLayer& layer, const T* v, int64_t iterations, Results<T> results,
                                    const Kernels<T>& kernels);
template <typename T>
std::unique_ptr<Job> dense_iteration(const LinearLayer& layer, const T* v, int64_t iterations, Results<T> results,
                                     const Kernels<T>& kernels);

// Writes scale * d<u, A v>/dW to the layer's weight.
template <typename T>
std::unique_ptr<Job> conv_gradient(const LinearLayer& layer, const T* v, const T* u, T scale,
                                   const Kernels<T>& kernels);
template <typename T>
std::unique_ptr<Job> dense_gradient(const LinearLayer& layer, const T* v, const T* u, T scale);

}  // namespace gloro_fast::cpu
