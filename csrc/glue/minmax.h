// MinMax between tensors and the torch-free kernels: checks, memory formats, element types, threads.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace gloro_fast {

// y has x's shape, type and memory format; mask is uint8 with one bit a pair: (samples * pairs, bytes a row)
// for planar memory, one-dimensional for interleaved (csrc/cpu/minmax.h), which is how backward tells them
// apart.
std::tuple<torch::stable::Tensor, torch::stable::Tensor> minmax_cpu(const torch::stable::Tensor& x,
                                                                    const std::optional<torch::stable::Tensor>& bias);

// Writes y over x, which must be contiguous or channels_last, and gives the mask.
torch::stable::Tensor minmax_inplace_cpu(const torch::stable::Tensor& x,
                                         const std::optional<torch::stable::Tensor>& bias);

// The second tensor is the gradient of the bias, or has no elements where with_bias is false.
std::tuple<torch::stable::Tensor, torch::stable::Tensor> minmax_backward_cpu(const torch::stable::Tensor& grad_y,
                                                                             const torch::stable::Tensor& mask,
                                                                             bool with_bias);

}  // namespace gloro_fast
