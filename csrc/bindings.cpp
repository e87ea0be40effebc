// The ops of the package as torch sees them: every schema, and which function serves it on which device.
// Autograd and shape functions are registered from Python (gloro_fast/ops, one file an op). All ops are
// functional. Only the stable ABI of torch is used, so that one binary serves every torch from 2.13 on.
#include <torch/csrc/stable/library.h>

#include "glue/fingerprint.h"
#include "glue/minmax.h"
#ifdef GLORO_FAST_WITH_CUDA
#include "glue/cuda/architecture.h"
#endif

STABLE_TORCH_LIBRARY(gloro_fast, m) {
  m.def("minmax(Tensor x, Tensor? bias=None) -> (Tensor y, Tensor mask)");
  m.def("minmax_backward(Tensor grad_y, Tensor mask, bool with_bias) -> (Tensor grad_x, Tensor grad_bias)");
  m.def("fingerprint(Tensor[] tensors) -> Tensor");
  m.def("architecture(Tensor like) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("minmax", TORCH_BOX(&gloro_fast::minmax_cpu));
  m.impl("minmax_backward", TORCH_BOX(&gloro_fast::minmax_backward_cpu));
  m.impl("fingerprint", TORCH_BOX(&gloro_fast::fingerprint_cpu));
}

#ifdef GLORO_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CUDA, m) {
  m.impl("architecture", TORCH_BOX(&gloro_fast::architecture_cuda));
}
#endif
