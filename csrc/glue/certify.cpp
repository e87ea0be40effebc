#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <tuple>

#include "../cpu/certify.h"
#include "access.h"
#include "new_tensor.h"

namespace gloro_fast {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// prediction, radius (float64), bottom (of the logits' type), each (B,): see csrc/cpu/certify.h. logits are
// (B, m), m >= 2, float32 or float64; differences (m, m) float64.
std::tuple<Tensor, Tensor, Tensor> certify_cpu(const Tensor& logits_any, const Tensor& differences_any,
                                               double lipschitz, double epsilon) {
  const Tensor logits = dense(logits_any);
  const Tensor differences = dense(differences_any);
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) >= 2, "certify: logits must be (batch, classes), classes >= 2");
  const int64_t rows = logits.size(0);
  const int64_t classes = logits.size(1);
  STD_TORCH_CHECK(differences.is_cpu() && differences.scalar_type() == ScalarType::Double && differences.dim() == 2 &&
                      differences.size(0) == classes && differences.size(1) == classes,
                  "certify: differences must be (", classes, ", ", classes, ") float64, on the CPU");
  const Tensor prediction = new_tensor({rows}, ScalarType::Long);
  const Tensor radius = new_tensor({rows}, ScalarType::Double);
  const Tensor bottom = new_tensor({rows}, logits.scalar_type());
  with_wide_type(logits.scalar_type(), "certify", [&](auto element) {
    using T = decltype(element);
    const int64_t grain = std::max<int64_t>(1, 4096 / classes);
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      cpu::certify(data<T>(logits), data<double>(differences), lipschitz, epsilon, classes,
                   mutable_data<int64_t>(prediction), mutable_data<double>(radius), mutable_data<T>(bottom), begin,
                   end);
    });
  });
  return {prediction, radius, bottom};
}

}  // namespace

}  // namespace gloro_fast

STABLE_TORCH_LIBRARY_FRAGMENT(gloro_fast, m) {
  m.def(
      "certify(Tensor logits, Tensor differences, float lipschitz, float epsilon)"
      " -> (Tensor prediction, Tensor radius, Tensor bottom)");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("certify", TORCH_BOX(&gloro_fast::certify_cpu));
}
