#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

namespace gloro_fast {

// One hash a tensor: see the schema in bindings.cpp and gloro_fast/ops/fingerprint_op.py.
torch::stable::Tensor fingerprint_cpu(const std::vector<torch::stable::Tensor>& tensors);

}  // namespace gloro_fast
