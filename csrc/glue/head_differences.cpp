#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>

#include "../cpu/head_differences.h"
#include "access.h"
#include "new_tensor.h"

namespace gloro_fast {

using torch::stable::Tensor;

namespace {

// Differences of numbers below which handing work to another thread costs more than it saves.
constexpr int64_t kGrain = 65536;

// (m, m) distances between the rows of weight (m, d), float32 or float64: see csrc/cpu/head_differences.h.
Tensor head_differences_cpu(const Tensor& weight_any) {
  const Tensor weight = dense(weight_any);
  STD_TORCH_CHECK(weight.dim() == 2, "head_differences: weight must be (classes, features)");
  const int64_t rows = weight.size(0);
  const int64_t columns = weight.size(1);
  const Tensor differences = new_tensor({rows, rows}, weight.scalar_type());
  with_wide_type(weight.scalar_type(), "head_differences", [&](auto element) {
    using T = decltype(element);
    // The first rows of a triangle are long and the last short: a piece is one of each.
    const int64_t pieces = (rows + 1) / 2;
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, rows * columns));
    torch::stable::parallel_for(0, pieces, grain, [&](int64_t begin, int64_t end) {
      const auto run = [&](int64_t from, int64_t to) {
        cpu::head_differences(data<T>(weight), rows, columns, mutable_data<T>(differences), from, to);
      };
      run(begin, end);
      run(std::max(end, rows - end), rows - begin);
    });
  });
  return differences;
}

Tensor head_differences_backward_cpu(const Tensor& grad_any, const Tensor& weight_any, const Tensor& differences_any) {
  const Tensor grad = dense(grad_any);
  const Tensor weight = dense(weight_any);
  const Tensor differences = dense(differences_any);
  STD_TORCH_CHECK(weight.dim() == 2, "head_differences_backward: weight must be (classes, features)");
  const int64_t rows = weight.size(0);
  const int64_t columns = weight.size(1);
  for (const Tensor* square : {&grad, &differences}) {
    STD_TORCH_CHECK(square->is_cpu() && square->dim() == 2 && square->size(0) == rows && square->size(1) == rows &&
                        square->scalar_type() == weight.scalar_type(),
                    "head_differences_backward: the arguments do not belong together");
  }
  const Tensor grad_weight = new_like(weight);
  with_wide_type(weight.scalar_type(), "head_differences_backward", [&](auto element) {
    using T = decltype(element);
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, rows * columns));
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      cpu::head_differences_backward(data<T>(grad), data<T>(weight), data<T>(differences), rows, columns,
                                     mutable_data<T>(grad_weight), begin, end);
    });
  });
  return grad_weight;
}

}  // namespace

}  // namespace gloro_fast

STABLE_TORCH_LIBRARY_FRAGMENT(gloro_fast, m) {
  m.def("head_differences(Tensor weight) -> Tensor");
  m.def("head_differences_backward(Tensor grad, Tensor weight, Tensor differences) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("head_differences", TORCH_BOX(&gloro_fast::head_differences_cpu));
  m.impl("head_differences_backward", TORCH_BOX(&gloro_fast::head_differences_backward_cpu));
}
