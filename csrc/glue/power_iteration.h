// Power iteration between tensors and the torch-free kernels: the layers' description, checks, types, threads.
// `layers` is read by csrc/common/power_iteration_description.h.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace gloro_fast {

// sigma (L,), and the layers' v and u, of the type of v (float32 or float64). They are tensors of their own: cutting
// one long one into views from Python cost a third of what a call costs beside its arithmetic. `multiprocessors` are a
// GPU's.
std::tuple<torch::stable::Tensor, std::vector<torch::stable::Tensor>, std::vector<torch::stable::Tensor>>
power_iteration_cpu(const std::vector<torch::stable::Tensor>& weights, const std::vector<torch::stable::Tensor>& v,
                    const std::vector<int64_t>& layers, int64_t iterations, int64_t multiprocessors);

// The gradient of every weight.
std::vector<torch::stable::Tensor> power_iteration_backward_cpu(const torch::stable::Tensor& grad_sigma,
                                                                const std::vector<torch::stable::Tensor>& v,
                                                                const std::vector<torch::stable::Tensor>& u,
                                                                const std::vector<int64_t>& layers);

}  // namespace gloro_fast
