// Power iteration between tensors of a GPU and the torch-free launches. Same arguments as on the CPU
// (../power_iteration.h), with float32 iterates and weights of float32, bfloat16 or float16; and `multiprocessors`: the
// forward launch has no more blocks than so many of them hold, all of them where it is 0. A plan's tiles follow from
// it, and so the last bits of the results, as they follow from the card.
//
// Both only put work on the current stream: they neither wait for it nor copy to the device, and all memory comes from
// torch's allocator, so that a CUDA graph can capture them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace gloro_fast {

std::tuple<torch::stable::Tensor, std::vector<torch::stable::Tensor>, std::vector<torch::stable::Tensor>>
power_iteration_cuda(const std::vector<torch::stable::Tensor>& weights, const std::vector<torch::stable::Tensor>& v,
                     const std::vector<int64_t>& layers, int64_t iterations, int64_t multiprocessors);

std::vector<torch::stable::Tensor> power_iteration_backward_cuda(const torch::stable::Tensor& grad_sigma,
                                                                 const std::vector<torch::stable::Tensor>& v,
                                                                 const std::vector<torch::stable::Tensor>& u,
                                                                 const std::vector<int64_t>& layers);

// Why these layers do not run in the kernels on device number `device`, in one line; empty where they do: every layer
// fits into its shared memory, and the driver has taken a cooperative launch of as many blocks.
std::string power_iteration_refusal(int64_t device, const std::vector<int64_t>& layers);

// How many multiprocessors of device number `device` these layers need (cuda::enough_multiprocessors).
int64_t power_iteration_enough_multiprocessors(int64_t device, const std::vector<int64_t>& layers);

}  // namespace gloro_fast
