// The elements of a tensor as the kernels take them.
//
// What lies in this folder uses the stable ABI of torch alone, so that one binary serves every torch from 2.11 on. Each
// file registers its ops; autograd and shape functions are registered from Python (gloro_fast/ops).
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "../common/half.h"

namespace gloro_fast {

template <typename T>
const T* data(const torch::stable::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const torch::stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The tensor itself if it is contiguous: the stable ABI's contiguous looks the op up by its name at every call.
inline torch::stable::Tensor dense(const torch::stable::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Calls function with a value of the C++ type that stands for `type` in the kernels; `op` names the caller.
template <typename Function>
void with_float_type(torch::headeronly::ScalarType type, const char* op, const Function& function) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    case ScalarType::BFloat16:
      return function(cpu::BFloat16{});
    case ScalarType::Half:
      return function(cpu::Half{});
    default:
      STD_TORCH_CHECK(false, op, ": expected float32, float64, bfloat16 or float16");
  }
}

// The same for the two types that computations are done in.
template <typename Function>
void with_wide_type(torch::headeronly::ScalarType type, const char* op, const Function& function) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, op, ": expected float32 or float64");
  return type == ScalarType::Float ? function(float{}) : function(double{});
}

}  // namespace gloro_fast
