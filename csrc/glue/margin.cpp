// The margin and the criteria on it between tensors and the torch-free kernels: checks, element types, threads.
//
// `logits` is (B, m), m >= 2; `differences` (m, m) and `lipschitz` (one number) have its type, or float32 where
// that is a 16-bit one. What is computed has their type, but for the gradient of logits, which has that of logits.
// `epsilon` and `lam` are 0-dim float64 tensors, so that on other devices kernels read what they are at the time.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "../cpu/margin.h"
#include "../cpu/margin_loss.h"
#include "access.h"
#include "new_tensor.h"

namespace gloro_fast {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Logits below which handing work to another thread costs more than it saves.
constexpr int64_t kGrain = 4096;

int64_t rows_a_piece(int64_t classes) {
  return std::max<int64_t>(1, kGrain / classes);
}

bool is_wide(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double;
}

double number(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.numel() == 1 && tensor.scalar_type() == ScalarType::Double,
                  "margin: ", name, " must be one float64 number, on the CPU");
  return *data<double>(tensor);
}

// The arguments that both forms share, checked and contiguous.
struct Problem {
  Problem(const Tensor& logits_any, const Tensor& differences_any, const Tensor& lipschitz_any)
      : logits(dense(logits_any)), differences(dense(differences_any)), lipschitz(lipschitz_any) {
    STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) >= 2, "margin: logits must be (batch, classes), classes >= 2");
    rows = logits.size(0);
    classes = logits.size(1);
    const ScalarType wide = is_wide(logits) ? logits.scalar_type() : ScalarType::Float;
    STD_TORCH_CHECK(differences.is_cpu() && differences.dim() == 2 && differences.size(0) == classes &&
                        differences.size(1) == classes && differences.scalar_type() == wide,
                    "margin: differences must be (", classes, ", ", classes,
                    ") of the type that the logits are computed in, on the CPU");
    STD_TORCH_CHECK(lipschitz.is_cpu() && lipschitz.numel() == 1 && lipschitz.scalar_type() == wide,
                    "margin: lipschitz must be one number of the type of differences, on the CPU");
  }

  Tensor of_rows() const { return new_tensor({rows}, differences.scalar_type()); }
  Tensor indices() const { return new_tensor({rows}, ScalarType::Long); }

  Tensor logits;
  Tensor differences;
  Tensor lipschitz;
  int64_t rows;
  int64_t classes;
};

bool is_row_of(const Tensor& tensor, int64_t rows, ScalarType type) {
  return tensor.is_cpu() && tensor.is_contiguous() && tensor.dim() == 1 && tensor.size(0) == rows &&
         tensor.scalar_type() == type;
}

void check_saved(const Tensor& grad, const Tensor& logits, const Tensor& prediction, const Tensor& runner_up,
                 const Tensor& differences, const Tensor& lipschitz) {
  const ScalarType type = is_wide(logits) ? logits.scalar_type() : ScalarType::Float;
  const int64_t rows = grad.size(0);
  STD_TORCH_CHECK(is_row_of(grad, rows, type) && is_row_of(prediction, rows, ScalarType::Long) &&
                      is_row_of(runner_up, rows, ScalarType::Long) && differences.is_cpu() && differences.dim() == 2 &&
                      differences.is_contiguous() && differences.size(0) == differences.size(1) &&
                      differences.scalar_type() == type && lipschitz.is_cpu() && lipschitz.numel() == 1 &&
                      lipschitz.scalar_type() == type,
                  "margin_backward: the arguments are not those of a margin");
  const int64_t classes = differences.size(0);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t j = data<int64_t>(prediction)[r];
    const int64_t i = data<int64_t>(runner_up)[r];
    STD_TORCH_CHECK(j >= 0 && j < classes && i >= -1 && i < classes, "margin_backward: an index is out of range");
  }
}

// The gradients of logits, which `rows_of` computes for rows [begin, end), of differences (no elements where
// with_differences is false) and of lipschitz; `share` as in margin_backward_bounds.
template <typename Rows>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& logits, const Tensor* share,
                                            const Tensor& prediction, const Tensor& runner_up,
                                            const Tensor& differences, const Tensor& lipschitz,
                                            const Tensor& epsilon_any, bool with_differences, const Rows& rows_of) {
  const double epsilon = number(epsilon_any, "epsilon");
  const int64_t rows = grad.size(0);
  const int64_t classes = differences.size(0);
  const int64_t size = with_differences ? classes : 0;
  const Tensor grad_logits = new_tensor({rows, classes}, logits.scalar_type());
  const Tensor grad_differences = new_tensor({size, size}, differences.scalar_type());
  const Tensor grad_lipschitz = new_like(lipschitz);
  with_float_type(logits.scalar_type(), "margin_backward", [&](auto element) {
    using T = decltype(element);
    using C = cpu::Wide<T>;
    torch::stable::parallel_for(0, rows, 8 * rows_a_piece(classes), [&](int64_t begin, int64_t end) {
      rows_of(data<C>(grad), classes, mutable_data<T>(grad_logits), begin, end);
    });
    cpu::margin_backward_bounds(
        data<C>(grad), share != nullptr ? data<C>(*share) : nullptr, data<int64_t>(prediction),
        data<int64_t>(runner_up), data<C>(differences), *data<C>(lipschitz), static_cast<C>(epsilon), rows, classes,
        with_differences ? mutable_data<C>(grad_differences) : nullptr, mutable_data<C>(grad_lipschitz));
  });
  return {grad_logits, grad_differences, grad_lipschitz};
}

// bottom, prediction, radius, runner_up (-1 where bottom has no gradient), each (B,).
std::tuple<Tensor, Tensor, Tensor, Tensor> margin_cpu(const Tensor& logits, const Tensor& differences,
                                                      const Tensor& lipschitz, const Tensor& epsilon_any) {
  const Problem problem(logits, differences, lipschitz);
  const double epsilon = number(epsilon_any, "epsilon");
  const Tensor bottom = problem.of_rows();
  const Tensor prediction = problem.indices();
  const Tensor radius = problem.of_rows();
  const Tensor runner_up = problem.indices();
  with_float_type(logits.scalar_type(), "margin", [&](auto element) {
    using T = decltype(element);
    using C = cpu::Wide<T>;
    torch::stable::parallel_for(0, problem.rows, rows_a_piece(problem.classes), [&](int64_t begin, int64_t end) {
      cpu::margin(data<T>(problem.logits), data<C>(problem.differences), *data<C>(problem.lipschitz),
                  static_cast<C>(epsilon), problem.classes, mutable_data<C>(bottom), mutable_data<int64_t>(prediction),
                  mutable_data<C>(radius), mutable_data<int64_t>(runner_up), begin, end);
    });
  });
  return {bottom, prediction, radius, runner_up};
}

// The gradients of logits, differences (no elements where with_differences is false) and lipschitz.
std::tuple<Tensor, Tensor, Tensor> margin_backward_cpu(const Tensor& grad_any, const Tensor& logits,
                                                       const Tensor& prediction, const Tensor& runner_up,
                                                       const Tensor& differences_any, const Tensor& lipschitz,
                                                       const Tensor& epsilon, bool with_differences) {
  const Tensor grad = dense(grad_any);
  const Tensor differences = dense(differences_any);
  check_saved(grad, logits, prediction, runner_up, differences, lipschitz);
  return backward(grad, logits, nullptr, prediction, runner_up, differences, lipschitz, epsilon, with_differences,
                  [&](const auto* grad_rows, int64_t classes, auto* grad_logits, int64_t begin, int64_t end) {
                    cpu::margin_backward(grad_rows, data<int64_t>(runner_up), classes, grad_logits, begin, end);
                  });
}

// loss, prediction, certified (B,); share_of_logits (B, m), share_of_bottom (B,): the derivatives of each row's
// loss with respect to its logits (through bottom too) and to bottom; runner_up (B,).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> margin_loss_cpu(
    const Tensor& logits, const Tensor& differences, const Tensor& lipschitz, const Tensor& epsilon_any,
    const Tensor& labels_any, int64_t criterion, const Tensor& lam_any) {
  const Problem problem(logits, differences, lipschitz);
  const double epsilon = number(epsilon_any, "epsilon");
  const double lam = number(lam_any, "lam");
  const Tensor labels = dense(labels_any);
  STD_TORCH_CHECK(is_row_of(labels, problem.rows, ScalarType::Long),
                  "margin_loss: labels must be int64, one a row, on the CPU");
  for (int64_t r = 0; r < problem.rows; ++r) {
    const int64_t label = data<int64_t>(labels)[r];
    STD_TORCH_CHECK(label >= 0 && label < problem.classes, "margin_loss: labels must lie in [0, ", problem.classes,
                    "), got ", label);
  }
  STD_TORCH_CHECK(criterion >= 0 && criterion <= 2, "margin_loss: there is no criterion ", criterion);
  const Tensor loss = problem.of_rows();
  const Tensor prediction = problem.indices();
  const Tensor certified = new_tensor({problem.rows}, ScalarType::Bool);
  const Tensor share_of_logits = new_tensor({problem.rows, problem.classes}, problem.differences.scalar_type());
  const Tensor share_of_bottom = problem.of_rows();
  const Tensor runner_up = problem.indices();
  with_float_type(logits.scalar_type(), "margin_loss", [&](auto element) {
    using T = decltype(element);
    using C = cpu::Wide<T>;
    torch::stable::parallel_for(0, problem.rows, rows_a_piece(problem.classes), [&](int64_t begin, int64_t end) {
      cpu::margin_loss(data<T>(problem.logits), data<C>(problem.differences), *data<C>(problem.lipschitz),
                       static_cast<C>(epsilon), data<int64_t>(labels), static_cast<cpu::Criterion>(criterion),
                       static_cast<C>(lam), problem.classes, mutable_data<C>(loss), mutable_data<int64_t>(prediction),
                       mutable_data<bool>(certified), mutable_data<C>(share_of_logits),
                       mutable_data<C>(share_of_bottom), mutable_data<int64_t>(runner_up), begin, end);
    });
  });
  return {loss, prediction, certified, share_of_logits, share_of_bottom, runner_up};
}

// As margin_backward_cpu.
std::tuple<Tensor, Tensor, Tensor> margin_loss_backward_cpu(const Tensor& grad_any, const Tensor& logits,
                                                            const Tensor& share_of_logits_any,
                                                            const Tensor& share_of_bottom, const Tensor& prediction,
                                                            const Tensor& runner_up, const Tensor& differences_any,
                                                            const Tensor& lipschitz, const Tensor& epsilon,
                                                            bool with_differences) {
  const Tensor grad = dense(grad_any);
  const Tensor share_of_logits = dense(share_of_logits_any);
  const Tensor differences = dense(differences_any);
  check_saved(grad, logits, prediction, runner_up, differences, lipschitz);
  const int64_t rows = grad.size(0);
  const int64_t classes = differences.size(0);
  STD_TORCH_CHECK(is_row_of(share_of_bottom, rows, grad.scalar_type()) && share_of_logits.is_cpu() &&
                      share_of_logits.dim() == 2 && share_of_logits.size(0) == rows &&
                      share_of_logits.size(1) == classes && share_of_logits.scalar_type() == grad.scalar_type(),
                  "margin_loss_backward: the arguments are not those of a loss");
  return backward(grad, logits, &share_of_bottom, prediction, runner_up, differences, lipschitz, epsilon,
                  with_differences, [&](const auto* grad_rows, int64_t, auto* grad_logits, int64_t begin, int64_t end) {
                    using C = std::decay_t<decltype(*grad_rows)>;
                    cpu::scale_rows(grad_rows, data<C>(share_of_logits), classes, grad_logits, begin, end);
                  });
}

}  // namespace

}  // namespace gloro_fast

STABLE_TORCH_LIBRARY_FRAGMENT(gloro_fast, m) {
  m.def(
      "margin(Tensor logits, Tensor differences, Tensor lipschitz, Tensor epsilon)"
      " -> (Tensor bottom, Tensor prediction, Tensor radius, Tensor runner_up)");
  m.def(
      "margin_backward(Tensor grad_bottom, Tensor logits, Tensor prediction, Tensor runner_up, Tensor differences,"
      " Tensor lipschitz, Tensor epsilon, bool with_differences)"
      " -> (Tensor grad_logits, Tensor grad_differences, Tensor grad_lipschitz)");
  m.def(
      "margin_loss(Tensor logits, Tensor differences, Tensor lipschitz, Tensor epsilon, Tensor labels, int criterion,"
      " Tensor lam) -> (Tensor loss, Tensor prediction, Tensor certified, Tensor share_of_logits,"
      " Tensor share_of_bottom, Tensor runner_up)");
  m.def(
      "margin_loss_backward(Tensor grad_loss, Tensor logits, Tensor share_of_logits, Tensor share_of_bottom,"
      " Tensor prediction, Tensor runner_up, Tensor differences, Tensor lipschitz, Tensor epsilon,"
      " bool with_differences)"
      " -> (Tensor grad_logits, Tensor grad_differences, Tensor grad_lipschitz)");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("margin", TORCH_BOX(&gloro_fast::margin_cpu));
  m.impl("margin_backward", TORCH_BOX(&gloro_fast::margin_backward_cpu));
  m.impl("margin_loss", TORCH_BOX(&gloro_fast::margin_loss_cpu));
  m.impl("margin_loss_backward", TORCH_BOX(&gloro_fast::margin_loss_backward_cpu));
}
