// The margin and the criteria on it between tensors and the torch-free kernels: checks, element types, threads.
//
// `logits` is (B, m), m >= 2; `differences` (m, m) and `lipschitz` (one number) have its type, or float32 where
// that is a 16-bit one. What is computed has their type, but for the gradient of logits, which has that of logits.
// `epsilon` and `lam` are 0-dim float64 tensors, so that on other devices kernels read what they are at the time.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace gloro_fast {

// bottom, prediction, radius, runner_up (-1 where bottom has no gradient), each (B,).
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> margin_cpu(
    const torch::stable::Tensor& logits, const torch::stable::Tensor& differences,
    const torch::stable::Tensor& lipschitz, const torch::stable::Tensor& epsilon);

// The gradients of logits, differences (no elements where with_differences is false) and lipschitz.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> margin_backward_cpu(
    const torch::stable::Tensor& grad_bottom, const torch::stable::Tensor& logits,
    const torch::stable::Tensor& prediction, const torch::stable::Tensor& runner_up,
    const torch::stable::Tensor& differences, const torch::stable::Tensor& lipschitz,
    const torch::stable::Tensor& epsilon, bool with_differences);

// loss, prediction, certified (B,); share_of_logits (B, m), share_of_bottom (B,): the derivatives of each row's
// loss with respect to its logits (through bottom too) and to bottom; runner_up (B,).
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
           torch::stable::Tensor, torch::stable::Tensor>
margin_loss_cpu(const torch::stable::Tensor& logits, const torch::stable::Tensor& differences,
                const torch::stable::Tensor& lipschitz, const torch::stable::Tensor& epsilon,
                const torch::stable::Tensor& labels, int64_t criterion, const torch::stable::Tensor& lam);

// As margin_backward_cpu.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> margin_loss_backward_cpu(
    const torch::stable::Tensor& grad_loss, const torch::stable::Tensor& logits,
    const torch::stable::Tensor& share_of_logits, const torch::stable::Tensor& share_of_bottom,
    const torch::stable::Tensor& prediction, const torch::stable::Tensor& runner_up,
    const torch::stable::Tensor& differences, const torch::stable::Tensor& lipschitz,
    const torch::stable::Tensor& epsilon, bool with_differences);

}  // namespace gloro_fast
