// The criteria of GloRo training over the logits and bottom, with all their gradients, in one pass over the rows.
//
// With p = softmax f, f_bar the m + 1 logits, b bottom (margin.h), y the label, per row:
//
//   cross_entropy   LSE(f_bar) - f_y
//   trades_kl       LSE(f) - f_y + lam softplus(b - LSE(f))
//   trades_ce       LSE(f) - f_y + lam (softplus(b - LSE(f)) + LSE(f) - sum_i p_i f_i)
//
// A row without NaN and infinities takes a fast way that also loses no digits where LSE(f) and f_y are large and
// close; the others follow the reference, operation by operation.
#pragma once

#include <cstdint>

#include "margin.h"

namespace gloro_fast::cpu {

enum class Criterion : int64_t { cross_entropy = 0, trades_kl = 1, trades_ce = 2 };

// grad_logits (rows, classes) is the derivative of each row's loss with respect to its logits, the way through
// bottom included; grad_bottom the derivative with respect to bottom. labels lie in [0, classes).
template <typename T>
void margin_loss(const T* logits, const Wide<T>* differences, Wide<T> lipschitz, Wide<T> epsilon, const int64_t* labels,
                 Criterion criterion, Wide<T> lam, int64_t classes, Wide<T>* loss, int64_t* prediction, bool* certified,
                 Wide<T>* grad_logits, Wide<T>* grad_bottom, int64_t* runner_up, int64_t row_begin, int64_t row_end);

// grad_logits[row] = grad_loss[row] * share[row], rounded to T, for rows of `classes`.
template <typename T>
void scale_rows(const Wide<T>* grad_loss, const Wide<T>* share, int64_t classes, T* grad_logits, int64_t row_begin,
                int64_t row_end);

}  // namespace gloro_fast::cpu
