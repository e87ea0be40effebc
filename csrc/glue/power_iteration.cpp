// Power iteration between tensors and the torch-free kernels: the layers' description, checks, types, threads.
// `layers` is read by csrc/common/power_iteration_description.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "../common/power_iteration_description.h"
#include "../cpu/power_iteration.h"
#include "access.h"
#include "new_tensor.h"

namespace gloro_fast {

namespace {

using cpu::Description;
using cpu::LinearLayer;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Work below which a second thread costs more than it saves: about as many multiplications as 20 microseconds hold.
constexpr double kWorthThreads = 1e6;

constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::Double, ScalarType::BFloat16, ScalarType::Half};

// Points the layer to the weight's memory, whatever its strides.
void attach(Description& description, const Tensor& weight, void* data) {
  LinearLayer& layer = description.layer;
  const auto dimensions = static_cast<int64_t>(description.weight_size.size());
  bool fits = weight.is_cpu() && weight.dim() == dimensions &&
              weight.scalar_type() == kTypes[static_cast<int>(layer.weight.element)];
  for (int64_t d = 0; fits && d < dimensions; ++d)
    fits = weight.size(d) == description.weight_size[static_cast<size_t>(d)];
  STD_TORCH_CHECK(fits, "power_iteration: a weight on the CPU does not have the type or shape of its description");
  layer.weight.data = data;
  layer.weight.strides[0] = weight.stride(0);
  layer.weight.strides[1] = weight.stride(1);
  layer.weight.strides[2] = dimensions == 4 ? weight.stride(2) : 0;
  layer.weight.strides[3] = dimensions >= 3 ? weight.stride(dimensions - 1) : 0;
}

void work(cpu::Schedule schedule) {
  const int64_t threads = schedule.cost() < kWorthThreads ? 1 : torch::stable::get_num_threads();
  if (threads == 1) return schedule.work();
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { schedule.work(); });
}

bool is_float_or_double(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double;
}

Tensor new_gradient(const Description& description) {
  return new_tensor(description.weight_size, kTypes[static_cast<int>(description.layer.weight.element)],
                    description.channels_last);
}

// Contiguous iterates of the layers' sizes, all of `type`.
std::vector<Tensor> check_iterates(const std::vector<Tensor>& iterates, const std::vector<LinearLayer>& layers,
                                   ScalarType type, int64_t (LinearLayer::*size)() const) {
  STD_TORCH_CHECK(iterates.size() == layers.size(), "power_iteration: got ", iterates.size(), " iterates for ",
                  layers.size(), " layers");
  std::vector<Tensor> checked;
  checked.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    STD_TORCH_CHECK(iterates[i].is_cpu() && iterates[i].scalar_type() == type && is_float_or_double(iterates[i]) &&
                        iterates[i].numel() == (layers[i].*size)(),
                    "power_iteration: the iterates must have the layers' sizes and be on the CPU, all float32 or all "
                    "float64");
    checked.push_back(dense(iterates[i]));
  }
  return checked;
}

// sigma (L,), and the layers' v and u, of the type of v (float32 or float64). They are tensors of their own: cutting
// one long one into views from Python cost a third of what a call costs beside its arithmetic. `multiprocessors` are a
// GPU's.
std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> power_iteration_cpu(const std::vector<Tensor>& weights,
                                                                                 const std::vector<Tensor>& v_any,
                                                                                 const std::vector<int64_t>& numbers,
                                                                                 int64_t iterations,
                                                                                 int64_t /*multiprocessors*/) {
  std::vector<Description> descriptions = cpu::read_layers(numbers);
  STD_TORCH_CHECK(!weights.empty() && weights.size() == descriptions.size(), "power_iteration: got ", weights.size(),
                  " weights for ", descriptions.size(), " layers; expected as many, and at least one");
  STD_TORCH_CHECK(iterations >= 0, "power_iteration: expected 0 iterations or more, got ", iterations);
  std::vector<LinearLayer> layers;
  layers.reserve(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    attach(descriptions[i], weights[i], const_cast<void*>(weights[i].const_data_ptr()));
    layers.push_back(descriptions[i].layer);
  }
  STD_TORCH_CHECK(!v_any.empty(), "power_iteration: got no iterates");
  const ScalarType type = v_any[0].scalar_type();
  const std::vector<Tensor> v = check_iterates(v_any, layers, type, &LinearLayer::input_size);
  const Tensor sigma = new_tensor({static_cast<int64_t>(layers.size())}, type);
  std::vector<Tensor> v_new, u;
  v_new.reserve(layers.size());
  u.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    v_new.push_back(new_like(v[i]));
    u.push_back(new_tensor(descriptions[i].output_size(), type));
  }
  with_wide_type(type, "power_iteration", [&](auto element) {
    using T = decltype(element);
    std::vector<cpu::Iterates<T>> iterates;
    iterates.reserve(layers.size());
    for (size_t i = 0; i < layers.size(); ++i)
      iterates.push_back({data<T>(v[i]), mutable_data<T>(v_new[i]), mutable_data<T>(u[i])});
    work(cpu::power_iteration<T>(layers, iterates, iterations, cpu::simd_level(), mutable_data<T>(sigma)));
  });
  return {sigma, v_new, u};
}

// The gradient of every weight.
std::vector<Tensor> power_iteration_backward_cpu(const Tensor& grad_sigma_any, const std::vector<Tensor>& v_any,
                                                 const std::vector<Tensor>& u_any,
                                                 const std::vector<int64_t>& numbers) {
  const Tensor grad_sigma = dense(grad_sigma_any);
  std::vector<Tensor> gradients;
  std::vector<LinearLayer> layers;
  for (Description& description : cpu::read_layers(numbers)) {
    gradients.push_back(new_gradient(description));
    attach(description, gradients.back(), gradients.back().mutable_data_ptr());
    layers.push_back(description.layer);
  }
  STD_TORCH_CHECK(grad_sigma.is_cpu() && is_float_or_double(grad_sigma) &&
                      grad_sigma.numel() == static_cast<int64_t>(layers.size()),
                  "power_iteration_backward: expected one float32 or float64 gradient for each of ", layers.size(),
                  " layers, on the CPU");
  const ScalarType type = grad_sigma.scalar_type();
  const std::vector<Tensor> v = check_iterates(v_any, layers, type, &LinearLayer::input_size);
  const std::vector<Tensor> u = check_iterates(u_any, layers, type, &LinearLayer::output_size);
  with_wide_type(type, "power_iteration", [&](auto element) {
    using T = decltype(element);
    std::vector<cpu::Iterates<T>> iterates;
    iterates.reserve(layers.size());
    for (size_t i = 0; i < layers.size(); ++i)
      iterates.push_back({nullptr, mutable_data<T>(v[i]), mutable_data<T>(u[i])});
    work(cpu::power_iteration_gradient<T>(layers, mutable_data<T>(grad_sigma), iterates, cpu::simd_level()));
  });
  return gradients;
}

}  // namespace

}  // namespace gloro_fast

STABLE_TORCH_LIBRARY_FRAGMENT(gloro_fast, m) {
  m.def(
      "power_iteration(Tensor[] weights, Tensor[] v, int[] layers, int iterations, *, int multiprocessors=0)"
      " -> (Tensor sigma, Tensor[] v_new, Tensor[] u)");
  m.def("power_iteration_backward(Tensor grad_sigma, Tensor[] v, Tensor[] u, int[] layers) -> Tensor[]");
  m.def("power_iteration_refusal(int device, int[] layers) -> str");
  m.def("power_iteration_enough_multiprocessors(int device, int[] layers) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("power_iteration", TORCH_BOX(&gloro_fast::power_iteration_cpu));
  m.impl("power_iteration_backward", TORCH_BOX(&gloro_fast::power_iteration_backward_cpu));
}
