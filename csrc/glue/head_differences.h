#pragma once

#include <torch/csrc/stable/tensor.h>

namespace gloro_fast {

// (m, m) distances between the rows of weight (m, d), float32 or float64: see csrc/cpu/head_differences.h.
torch::stable::Tensor head_differences_cpu(const torch::stable::Tensor& weight);

torch::stable::Tensor head_differences_backward_cpu(const torch::stable::Tensor& grad,
                                                    const torch::stable::Tensor& weight,
                                                    const torch::stable::Tensor& differences);

}  // namespace gloro_fast
