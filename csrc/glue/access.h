// The elements of a tensor as the kernels take them.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace gloro_fast {

template <typename T>
const T* data(const torch::stable::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const torch::stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace gloro_fast
