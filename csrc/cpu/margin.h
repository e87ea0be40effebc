// Bottom, prediction and radius of rows of logits, and the gradient of bottom with respect to D and K.
//
//   j = argmax f,  K_ij = lipschitz * differences[j][i]
//   bottom = max over i != j of f_i + epsilon K_ij;   radius = min over i != j of (f_j - f_i) / K_ij
//
// with every operation of margin_reference (gloro_fast/ops/margin_op.py) in its order and precision, so that radius
// and certified have the same bits: bottom < f_j exactly where radius > epsilon. `logits` is (rows, classes) of
// T (float, double, BFloat16, Half), `differences` (classes, classes) of Wide<T>. classes >= 2.
//
// Functions of rows work on [row_begin, row_end), so that the caller may spread them over threads; no result
// depends on how they are spread.
#pragma once

#include <cstdint>

#include "../common/half.h"

namespace gloro_fast::cpu {

// The type in which T is computed: float for the 16-bit formats, else T itself.
template <typename T>
using Wide = decltype(widen(T{}));

// runner_up is the class that bottom's gradient goes to, -1 where bottom has none (it is not finite).
template <typename T>
void margin(const T* logits, const Wide<T>* differences, Wide<T> lipschitz, Wide<T> epsilon, int64_t classes,
            Wide<T>* bottom, int64_t* prediction, Wide<T>* radius, int64_t* runner_up, int64_t row_begin,
            int64_t row_end);

// grad_logits (rows, classes) of zeros, but grad_bottom[row], rounded to T, at the runner-up.
template <typename T>
void margin_backward(const Wide<T>* grad_bottom, const int64_t* runner_up, int64_t classes, T* grad_logits,
                     int64_t row_begin, int64_t row_end);

// The gradients of all rows with respect to D (classes, classes; null: not wanted) and K (one number), added up in
// the order of the rows. The gradient of a row's bottom is grad[row] * share[row], or grad[row] if share is null.
template <typename T>
void margin_backward_bounds(const T* grad, const T* share, const int64_t* prediction, const int64_t* runner_up,
                            const T* differences, T lipschitz, T epsilon, int64_t rows, int64_t classes,
                            T* grad_differences, T* grad_lipschitz);

}  // namespace gloro_fast::cpu
