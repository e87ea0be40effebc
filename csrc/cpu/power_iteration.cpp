#include "power_iteration.h"

#include <memory>
#include <utility>

#include "power_iteration_jobs.h"

namespace gloro_fast::cpu {

template <typename T>
Schedule power_iteration(const std::vector<LinearLayer>& layers, const std::vector<Iterates<T>>& iterates,
                         int64_t iterations, Simd level, T* sigma) {
  const Kernels<T>& table = kernels<T>(level);
  std::vector<std::unique_ptr<Job>> jobs;
  jobs.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto iteration = layers[i].dense ? dense_iteration<T> : conv_iteration<T>;
    const Results<T> results{sigma + i, iterates[i].v, iterates[i].u};
    jobs.push_back(iteration(layers[i], iterates[i].start, iterations, results, table));
  }
  return Schedule(std::move(jobs));
}

template <typename T>
Schedule power_iteration_gradient(const std::vector<LinearLayer>& layers, const T* grad_sigma,
                                  const std::vector<Iterates<T>>& iterates, Simd level) {
  const Kernels<T>& table = kernels<T>(level);
  std::vector<std::unique_ptr<Job>> jobs;
  jobs.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const T *v = iterates[i].v, *u = iterates[i].u;
    jobs.push_back(layers[i].dense ? dense_gradient<T>(layers[i], v, u, grad_sigma[i])
                                   : conv_gradient<T>(layers[i], v, u, grad_sigma[i], table));
  }
  return Schedule(std::move(jobs));
}

#define GLORO_FAST_INSTANTIATE(T)                                                                                    \
  template Schedule power_iteration(const std::vector<LinearLayer>&, const std::vector<Iterates<T>>&, int64_t, Simd, \
                                    T*);                                                                             \
  template Schedule power_iteration_gradient(const std::vector<LinearLayer>&, const T*,                              \
                                             const std::vector<Iterates<T>>&, Simd);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
