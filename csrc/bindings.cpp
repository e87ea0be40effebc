// The ops of the package as torch sees them: every schema, and which function serves it on which device.
// Autograd and shape functions are registered from Python (gloro_fast/ops, one file an op). All ops are
// functional but minmax_, which writes over x and has no autograd of its own. Only the stable ABI of torch is
// used, so that one binary serves every torch from 2.11 on.
#include <torch/csrc/stable/library.h>

#include "glue/certify.h"
#include "glue/fingerprint.h"
#include "glue/head_differences.h"
#include "glue/margin.h"
#include "glue/minmax.h"
#include "glue/power_iteration.h"
#ifdef GLORO_FAST_WITH_CUDA
#include "glue/cuda/power_iteration.h"
#endif

STABLE_TORCH_LIBRARY(gloro_fast, m) {
  m.def("minmax(Tensor x, Tensor? bias=None) -> (Tensor y, Tensor mask)");
  m.def("minmax_(Tensor(a!) x, Tensor? bias=None) -> Tensor");
  m.def("minmax_backward(Tensor grad_y, Tensor mask, bool with_bias) -> (Tensor grad_x, Tensor grad_bias)");
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
  m.def("head_differences(Tensor weight) -> Tensor");
  m.def("head_differences_backward(Tensor grad, Tensor weight, Tensor differences) -> Tensor");
  m.def(
      "certify(Tensor logits, Tensor differences, float lipschitz, float epsilon)"
      " -> (Tensor prediction, Tensor radius, Tensor bottom)");
  m.def("fingerprint(Tensor[] tensors) -> Tensor");
  m.def(
      "power_iteration(Tensor[] weights, Tensor[] v, int[] layers, int iterations, *, int multiprocessors=0)"
      " -> (Tensor sigma, Tensor[] v_new, Tensor[] u)");
  m.def("power_iteration_backward(Tensor grad_sigma, Tensor[] v, Tensor[] u, int[] layers) -> Tensor[]");
  m.def("power_iteration_refusal(int device, int[] layers) -> str");
  m.def("power_iteration_enough_multiprocessors(int device, int[] layers) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("minmax", TORCH_BOX(&gloro_fast::minmax_cpu));
  m.impl("minmax_", TORCH_BOX(&gloro_fast::minmax_inplace_cpu));
  m.impl("minmax_backward", TORCH_BOX(&gloro_fast::minmax_backward_cpu));
  m.impl("margin", TORCH_BOX(&gloro_fast::margin_cpu));
  m.impl("margin_backward", TORCH_BOX(&gloro_fast::margin_backward_cpu));
  m.impl("margin_loss", TORCH_BOX(&gloro_fast::margin_loss_cpu));
  m.impl("margin_loss_backward", TORCH_BOX(&gloro_fast::margin_loss_backward_cpu));
  m.impl("head_differences", TORCH_BOX(&gloro_fast::head_differences_cpu));
  m.impl("head_differences_backward", TORCH_BOX(&gloro_fast::head_differences_backward_cpu));
  m.impl("certify", TORCH_BOX(&gloro_fast::certify_cpu));
  m.impl("fingerprint", TORCH_BOX(&gloro_fast::fingerprint_cpu));
  m.impl("power_iteration", TORCH_BOX(&gloro_fast::power_iteration_cpu));
  m.impl("power_iteration_backward", TORCH_BOX(&gloro_fast::power_iteration_backward_cpu));
}

#ifdef GLORO_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CUDA, m) {
  m.impl("power_iteration", TORCH_BOX(&gloro_fast::power_iteration_cuda));
  m.impl("power_iteration_backward", TORCH_BOX(&gloro_fast::power_iteration_backward_cuda));
}

// Take no tensor, and so are not a device's.
STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CompositeImplicitAutograd, m) {
  m.impl("power_iteration_refusal", TORCH_BOX(&gloro_fast::power_iteration_refusal));
  m.impl("power_iteration_enough_multiprocessors", TORCH_BOX(&gloro_fast::power_iteration_enough_multiprocessors));
}
#endif
