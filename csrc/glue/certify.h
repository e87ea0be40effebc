#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace gloro_fast {

// prediction, radius (float64), bottom (of the logits' type), each (B,): see csrc/cpu/certify.h. logits are
// (B, m), m >= 2, float32 or float64; differences (m, m) float64.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> certify_cpu(
    const torch::stable::Tensor& logits, const torch::stable::Tensor& differences, double lipschitz, double epsilon);

}  // namespace gloro_fast
