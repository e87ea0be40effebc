#include "margin.h"

#include <algorithm>

#include "margin_row.h"

namespace gloro_fast::cpu {

template <typename T>
void margin(const T* logits, const Wide<T>* differences, Wide<T> lipschitz, Wide<T> epsilon, int64_t classes,
            Wide<T>* bottom, int64_t* prediction, Wide<T>* radius, int64_t* runner_up, int64_t row_begin,
            int64_t row_end) {
  Row<Wide<T>> row(classes);
  for (int64_t r = row_begin; r < row_end; ++r) {
    row.load(logits + r * classes);
    const Margin<Wide<T>> margin = margin_of(row, differences, lipschitz, epsilon);
    bottom[r] = margin.bottom;
    prediction[r] = margin.prediction;
    radius[r] = margin.radius;
    runner_up[r] = margin.runner_up;
  }
}

template <typename T>
void margin_backward(const Wide<T>* grad_bottom, const int64_t* runner_up, int64_t classes, T* grad_logits,
                     int64_t row_begin, int64_t row_end) {
  std::fill(grad_logits + row_begin * classes, grad_logits + row_end * classes, narrow<T>(0));
  for (int64_t r = row_begin; r < row_end; ++r) {
    if (runner_up[r] >= 0) grad_logits[r * classes + runner_up[r]] = narrow<T>(grad_bottom[r]);
  }
}

template <typename T>
void margin_backward_bounds(const T* grad, const T* share, const int64_t* prediction, const int64_t* runner_up,
                            const T* differences, T lipschitz, T epsilon, int64_t rows, int64_t classes,
                            T* grad_differences, T* grad_lipschitz) {
  if (grad_differences != nullptr) std::fill_n(grad_differences, classes * classes, T{0});
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (runner_up[r] < 0) continue;
    const int64_t pair = prediction[r] * classes + runner_up[r];
    const T rise = epsilon * (share != nullptr ? grad[r] * share[r] : grad[r]);
    if (grad_differences != nullptr) grad_differences[pair] += rise * lipschitz;
    total += static_cast<double>(rise) * static_cast<double>(differences[pair]);
  }
  *grad_lipschitz = static_cast<T>(total);
}

#define GLORO_FAST_INSTANTIATE(T)                                                                                   \
  template void margin(const T*, const Wide<T>*, Wide<T>, Wide<T>, int64_t, Wide<T>*, int64_t*, Wide<T>*, int64_t*, \
                       int64_t, int64_t);                                                                           \
  template void margin_backward(const Wide<T>*, const int64_t*, int64_t, T*, int64_t, int64_t);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)
GLORO_FAST_INSTANTIATE(BFloat16)
GLORO_FAST_INSTANTIATE(Half)

#undef GLORO_FAST_INSTANTIATE

#define GLORO_FAST_INSTANTIATE(T)                                                                                   \
  template void margin_backward_bounds(const T*, const T*, const int64_t*, const int64_t*, const T*, T, T, int64_t, \
                                       int64_t, T*, T*);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
