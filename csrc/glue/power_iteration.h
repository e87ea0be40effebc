// Power iteration between tensors and the torch-free kernels: the layers' description, checks, types, threads.
//
// `layers` describes each layer by a run of integers: spatial dimensions r (0 for a dense layer, 1 or 2), type of
// the weight (0 float32, 1 float64, 2 bfloat16, 3 float16), 1 if its gradient shall be channels_last, outputs,
// inputs, groups, and for each spatial dimension input size, kernel, stride, zeros before, zeros after, dilation.
// gloro_fast/ops/power_iteration.py writes it.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace gloro_fast {

// sigma (L,), and the layers' v and u, of the type of v (float32 or float64). They are tensors of their own: cutting
// one long one into views from Python cost a third of what a call costs beside its arithmetic.
std::tuple<torch::stable::Tensor, std::vector<torch::stable::Tensor>, std::vector<torch::stable::Tensor>>
power_iteration_cpu(const std::vector<torch::stable::Tensor>& weights, const std::vector<torch::stable::Tensor>& v,
                    const std::vector<int64_t>& layers, int64_t iterations);

// The gradient of every weight.
std::vector<torch::stable::Tensor> power_iteration_backward_cpu(const torch::stable::Tensor& grad_sigma,
                                                                const std::vector<torch::stable::Tensor>& v,
                                                                const std::vector<torch::stable::Tensor>& u,
                                                                const std::vector<int64_t>& layers);

}  // namespace gloro_fast
