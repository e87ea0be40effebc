#include "margin_loss.h"

#include <algorithm>

#include "exp.h"
#include "margin_row.h"

namespace gloro_fast::cpu {

namespace {

// Room to work in, filled up to whole lanes with zeros.
template <typename C>
struct Scratch {
  explicit Scratch(int64_t padded) : weights(static_cast<size_t>(padded)), products(static_cast<size_t>(padded)) {}

  std::vector<C> weights;
  std::vector<C> products;
};

// What a row's loss comes to, but for its gradient with respect to the logits.
template <typename C>
struct Loss {
  C value;
  C grad_bottom;
};

// softplus and its derivative as torch has them: the identity above 20.
struct Softplus {
  double value;
  double slope;
};

Softplus softplus(double x) {
  if (x > 20) return {x, 1};
  return {std::log1p(std::exp(x)), 1 / (1 + std::exp(-x))};
}

// weights[i] = e^(f_i - reference), next to nothing beyond the classes; gives their sum. No f_i is above the
// reference.
template <typename C>
double exponentials(const Row<C>& row, C reference, C* weights) {
  const C* values = row.values.data();
  for (int64_t i = 0; i < row.padded; ++i) weights[i] = exp_minus(reference - values[i]);
  return sum_of(weights, row.padded);
}

template <typename C>
Loss<C> cross_entropy(const Row<C>& row, const Margin<C>& margin, int64_t label, Scratch<C>& scratch, C* grad) {
  const C reference = std::max(margin.top, margin.bottom);
  C* weights = scratch.weights.data();
  const double at_bottom = std::exp(static_cast<double>(margin.bottom) - static_cast<double>(reference));
  const double sum = exponentials(row, reference, weights) + at_bottom;
  const C scale = static_cast<C>(1 / sum);
  for (int64_t i = 0; i < row.classes; ++i) grad[i] = weights[i] * scale;
  grad[label] -= 1;
  const double below = static_cast<double>(row.values[static_cast<size_t>(label)]) - static_cast<double>(reference);
  return {static_cast<C>(std::log(sum) - below), static_cast<C>(at_bottom / sum)};
}

template <typename C>
Loss<C> trades(const Row<C>& row, const Margin<C>& margin, int64_t label, C lam, bool robust_cross_entropy,
               Scratch<C>& scratch, C* grad) {
  const C* values = row.values.data();
  C* weights = scratch.weights.data();
  const double sum = exponentials(row, margin.top, weights);
  const double top = margin.top;
  const double lse = std::log(sum);  // above the top
  const Softplus gap = softplus(static_cast<double>(margin.bottom) - top - lse);
  const double weight = static_cast<double>(lam);
  double loss = lse - (static_cast<double>(values[label]) - top) + weight * gap.value;
  const C scale = static_cast<C>((1 - weight * gap.slope) / sum);
  if (robust_cross_entropy) {
    C* products = scratch.products.data();
    for (int64_t i = 0; i < row.classes; ++i) products[i] = weights[i] * (values[i] - margin.top);
    const double mean = sum_of(products, row.padded) / sum;
    loss += weight * (lse - mean);
    const C robust = static_cast<C>(weight / sum);
    const C center = static_cast<C>(mean);
    for (int64_t i = 0; i < row.classes; ++i) {
      grad[i] = weights[i] * (scale - robust * (values[i] - margin.top - center));
    }
  } else {
    for (int64_t i = 0; i < row.classes; ++i) grad[i] = weights[i] * scale;
  }
  grad[label] -= 1;
  return {static_cast<C>(loss), static_cast<C>(weight * gap.slope)};
}

// As torch.logsumexp: an infinite maximum is not taken out.
template <typename C>
C log_sum_exp(const C* values, int64_t count, C last) {
  C largest = last;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(values[i]) || values[i] > largest) largest = values[i];
    if (std::isnan(largest)) break;
  }
  const C reference = std::isinf(largest) ? C{0} : largest;
  C sum = std::exp(last - reference);
  for (int64_t i = 0; i < count; ++i) sum += std::exp(values[i] - reference);
  return std::log(sum) + reference;
}

// A row with NaN or infinities: whatever the reference's arithmetic makes of it.
template <typename C>
Loss<C> loss_in_doubt(const Row<C>& row, const Margin<C>& margin, int64_t label, Criterion criterion, C lam, C* grad) {
  const C* values = row.values.data();
  const int64_t classes = row.classes;
  if (criterion == Criterion::cross_entropy) {
    const C lse = log_sum_exp(values, classes, margin.bottom);
    for (int64_t i = 0; i < classes; ++i) grad[i] = std::exp(values[i] - lse) - (i == label);
    return {lse - values[label], std::exp(margin.bottom - lse)};
  }
  const C lse = log_sum_exp(values, classes, -kInfinity<C>);
  const Softplus gap = softplus(static_cast<double>(margin.bottom - lse));
  const C value = static_cast<C>(gap.value);
  const C slope = static_cast<C>(gap.slope);
  C mean = 0;
  const bool robust_cross_entropy = criterion == Criterion::trades_ce;
  for (int64_t i = 0; i < classes; ++i) mean += std::exp(values[i] - lse) * values[i];
  for (int64_t i = 0; i < classes; ++i) {
    const C p = std::exp(values[i] - lse);
    grad[i] = p * (1 - lam * slope) - (i == label);
    if (robust_cross_entropy) grad[i] -= lam * p * (values[i] - mean);
  }
  const C robust = robust_cross_entropy ? value + lse - mean : value;
  return {lse - values[label] + lam * robust, lam * slope};
}

}  // namespace

template <typename T>
void margin_loss(const T* logits, const Wide<T>* differences, Wide<T> lipschitz, Wide<T> epsilon, const int64_t* labels,
                 Criterion criterion, Wide<T> lam, int64_t classes, Wide<T>* loss, int64_t* prediction, bool* certified,
                 Wide<T>* grad_logits, Wide<T>* grad_bottom, int64_t* runner_up, int64_t row_begin, int64_t row_end) {
  using C = Wide<T>;
  Row<C> row(classes);
  Scratch<C> scratch(row.padded);
  for (int64_t r = row_begin; r < row_end; ++r) {
    row.load(logits + r * classes);
    const Margin<C> margin = margin_of(row, differences, lipschitz, epsilon);
    C* grad = grad_logits + r * classes;
    Loss<C> result;
    if (!row.finite || !is_finite(margin.bottom)) {
      result = loss_in_doubt(row, margin, labels[r], criterion, lam, grad);
    } else if (criterion == Criterion::cross_entropy) {
      result = cross_entropy(row, margin, labels[r], scratch, grad);
    } else {
      result = trades(row, margin, labels[r], lam, criterion == Criterion::trades_ce, scratch, grad);
    }
    if (margin.runner_up >= 0) grad[margin.runner_up] += result.grad_bottom;
    loss[r] = result.value;
    prediction[r] = margin.prediction;
    certified[r] = margin.radius > epsilon;
    grad_bottom[r] = result.grad_bottom;
    runner_up[r] = margin.runner_up;
  }
}

template <typename T>
void scale_rows(const Wide<T>* grad_loss, const Wide<T>* share, int64_t classes, T* grad_logits, int64_t row_begin,
                int64_t row_end) {
  for (int64_t r = row_begin; r < row_end; ++r) {
    for (int64_t i = r * classes; i < (r + 1) * classes; ++i) grad_logits[i] = narrow<T>(grad_loss[r] * share[i]);
  }
}

#define GLORO_FAST_INSTANTIATE(T)                                                                                    \
  template void margin_loss(const T*, const Wide<T>*, Wide<T>, Wide<T>, const int64_t*, Criterion, Wide<T>, int64_t, \
                            Wide<T>*, int64_t*, bool*, Wide<T>*, Wide<T>*, int64_t*, int64_t, int64_t);              \
  template void scale_rows(const Wide<T>*, const Wide<T>*, int64_t, T*, int64_t, int64_t);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)
GLORO_FAST_INSTANTIATE(BFloat16)
GLORO_FAST_INSTANTIATE(Half)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
