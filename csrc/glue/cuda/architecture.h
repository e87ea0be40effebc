// The probe of csrc/cuda/architecture.cuh between tensors and the torch-free launch.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace gloro_fast {

// One int32 on the device of `like`: the architecture (900 for sm_90) whose code the driver runs there.
torch::stable::Tensor architecture_cuda(const torch::stable::Tensor& like);

}  // namespace gloro_fast
