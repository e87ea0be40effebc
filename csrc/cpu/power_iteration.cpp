#include "power_iteration.h"

#include <memory>
#include <utility>

#include "power_iteration_jobs.h"

namespace gloro_fast::cpu {

template <typename T>
Schedule power_iteration(const std::vector<LinearLayer>& layers, const std::vector<const T*>& v, int64_t iterations,
                         Simd level, T* sigma, T* v_new, T* u) {
  const Kernels<T>& table = kernels<T>(level);
  std::vector<std::unique_ptr<Job>> jobs;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    const auto iteration = layer.dense ? dense_iteration<T> : conv_iteration<T>;
    jobs.push_back(iteration(layer, v[i], iterations, Results<T>{sigma + i, v_new, u}, table));
    v_new += layer.input_size();
    u += layer.output_size();
  }
  return Schedule(std::move(jobs));
}

template <typename T>
Schedule power_iteration_gradient(const std::vector<LinearLayer>& layers, const T* grad_sigma, const T* v, const T* u,
                                  Simd level) {
  const Kernels<T>& table = kernels<T>(level);
  std::vector<std::unique_ptr<Job>> jobs;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    jobs.push_back(layer.dense ? dense_gradient<T>(layer, v, u, grad_sigma[i])
                               : conv_gradient<T>(layer, v, u, grad_sigma[i], table));
    v += layer.input_size();
    u += layer.output_size();
  }
  return Schedule(std::move(jobs));
}

#define GLORO_FAST_INSTANTIATE(T)                                                                                     \
  template Schedule power_iteration(const std::vector<LinearLayer>&, const std::vector<const T*>&, int64_t, Simd, T*, \
                                    T*, T*);                                                                          \
  template Schedule power_iteration_gradient(const std::vector<LinearLayer>&, const T*, const T*, const T*, Simd);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
