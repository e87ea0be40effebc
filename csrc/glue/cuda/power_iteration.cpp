// Power iteration between tensors of a GPU and the torch-free launches. Same arguments as on the CPU
// (../power_iteration.cpp), with float32 iterates and weights of float32, bfloat16 or float16; and `multiprocessors`:
// the forward launch has no more blocks than so many of them hold, all of them where it is 0. A plan's tiles follow
// from it, and so the last bits of the results, as they follow from the card.
//
// Both only put work on the current stream: they neither wait for it nor copy to the device, and all memory comes from
// torch's allocator, so that a CUDA graph can capture them.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "../../common/power_iteration_description.h"
#include "../../cuda/power_iteration.h"
#include "../../cuda/power_iteration_residency.h"
#include "stream.h"

namespace gloro_fast {

namespace {

namespace accelerator = torch::stable::accelerator;
using cpu::Description;
using cuda::Plan;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::Double, ScalarType::BFloat16, ScalarType::Half};

struct Plans {
  std::vector<Description> layers;
  std::vector<Plan> forward, gradient;
};

cuda::Card read_card(int32_t device) {
  cuda::Card card;
  const char* const error = cuda::read_card(device, &card);
  STD_TORCH_CHECK(error == nullptr, "power_iteration: the properties of GPU ", device, " cannot be read: ", error);
  return card;
}

void check_launch(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "power_iteration: the kernel could not be launched: ", error);
}

// Asks the driver of the current device. All it does can be captured in a graph.
cuda::Driver driver_of(int32_t device, const cuda::Card& card) {
  check_launch(cuda::prepare_power_iteration(card));
  void* const stream = current_stream(device);
  return {cuda::resident_blocks, [stream](const Plan& plan) {
            const char* const error = cuda::launch_power_iteration(plan, cuda::Launch{}, stream);
            return std::string(error == nullptr ? "" : error);
          }};
}

std::vector<cpu::LinearLayer> layers_of(const std::vector<Description>& descriptions) {
  std::vector<cpu::LinearLayer> layers;
  for (const Description& description : descriptions) layers.push_back(description.layer);
  return layers;
}

// Plans once for each network, device, which is the current one, and number of its multiprocessors, 0 for all: a
// training step finds its plans here.
std::shared_ptr<const Plans> plans_for(const std::vector<int64_t>& numbers, int32_t device, int64_t multiprocessors) {
  static std::mutex mutex;
  static std::map<std::tuple<int32_t, int64_t, std::vector<int64_t>>, std::shared_ptr<const Plans>> known;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<const Plans>& plans = known[{device, multiprocessors, numbers}];
  if (plans == nullptr) {
    auto made = std::make_shared<Plans>();
    made->layers = cpu::read_layers(numbers);
    const std::vector<cpu::LinearLayer> layers = layers_of(made->layers);
    const cuda::Card card = cuda::share_of(read_card(device), multiprocessors);
    made->forward = cuda::fit_power_iteration(layers, card, driver_of(device, card));
    made->gradient = cuda::plan_gradient(layers, card);
    plans = std::move(made);
  }
  return plans;
}

void check_layer(const Description& description, const Tensor& weight, int32_t device) {
  const auto dimensions = static_cast<int64_t>(description.weight_size.size());
  bool fits = weight.is_cuda() && weight.get_device_index() == device && weight.dim() == dimensions &&
              weight.scalar_type() == kTypes[static_cast<int>(description.layer.weight.element)];
  for (int64_t d = 0; fits && d < dimensions; ++d)
    fits = weight.size(d) == description.weight_size[static_cast<size_t>(d)];
  STD_TORCH_CHECK(fits, "power_iteration: a weight does not have the type, shape or device of its description");
}

Tensor check_iterate(const Tensor& iterate, int64_t size, int32_t device) {
  STD_TORCH_CHECK(iterate.is_cuda() && iterate.get_device_index() == device &&
                      iterate.scalar_type() == ScalarType::Float && iterate.numel() == size,
                  "power_iteration: the iterates must have the layers' sizes, be float32 and lie on the weights' GPU");
  return iterate.is_contiguous() ? iterate : torch::stable::contiguous(iterate);
}

void attach_weight(cuda::LayerPlan& layer, const Tensor& weight, void* data) {
  const int64_t dimensions = weight.dim();
  layer.weight = data;
  layer.weight_strides[0] = static_cast<int32_t>(weight.stride(0));
  layer.weight_strides[1] = static_cast<int32_t>(weight.stride(1));
  layer.weight_strides[2] = dimensions == 4 ? static_cast<int32_t>(weight.stride(2)) : 0;
  layer.weight_strides[3] = dimensions >= 3 ? static_cast<int32_t>(weight.stride(dimensions - 1)) : 0;
}

float* floats(const Tensor& tensor) {
  return static_cast<float*>(tensor.mutable_data_ptr());
}

std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> power_iteration_cuda(const std::vector<Tensor>& weights,
                                                                                  const std::vector<Tensor>& v_any,
                                                                                  const std::vector<int64_t>& numbers,
                                                                                  int64_t iterations,
                                                                                  int64_t multiprocessors) {
  STD_TORCH_CHECK(!weights.empty() && weights.size() == v_any.size(), "power_iteration: got ", weights.size(),
                  " weights and ", v_any.size(), " iterates; expected as many, and at least one");
  STD_TORCH_CHECK(iterations >= 0 && iterations < (1 << 24), "power_iteration: expected 0 iterations or more, got ",
                  iterations);
  STD_TORCH_CHECK(multiprocessors >= 0, "power_iteration: expected a number of multiprocessors, or 0 for all, got ",
                  multiprocessors);
  const int32_t device = weights[0].get_device_index();
  const accelerator::DeviceGuard guard(device);
  const std::shared_ptr<const Plans> plans = plans_for(numbers, device, multiprocessors);
  STD_TORCH_CHECK(weights.size() == plans->layers.size(), "power_iteration: got ", weights.size(), " weights for ",
                  plans->layers.size(), " layers");
  std::vector<Tensor> in_rows, start, v, u;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Description& description = plans->layers[i];
    check_layer(description, weights[i], device);
    // The kernels read convolutions of any strides, but dense weights row by row.
    const bool as_it_is = !description.layer.dense || weights[i].is_contiguous();
    in_rows.push_back(as_it_is ? weights[i] : torch::stable::contiguous(weights[i]));
    start.push_back(check_iterate(v_any[i], description.layer.input_size(), device));
    v.push_back(torch::stable::empty_like(start[i]));
    u.push_back(torch::stable::new_empty(start[i], description.output_size()));
  }
  const Tensor sigma = torch::stable::new_empty(start[0], std::vector<int64_t>{static_cast<int64_t>(weights.size())});
  void* const stream = current_stream(device);
  for (const Plan& planned : plans->forward) {
    Plan plan = planned;
    const Tensor workspace =
        torch::stable::new_empty(start[0], std::vector<int64_t>{plan.workspace_bytes}, ScalarType::Byte);
    cuda::place_workspace(plan, static_cast<char*>(workspace.mutable_data_ptr()));
    plan.launch.iterations = static_cast<int32_t>(iterations);
    for (int k = 0; k < plan.launch.layers; ++k) {
      const auto i = static_cast<size_t>(plan.order[static_cast<size_t>(k)]);
      cuda::LayerPlan& layer = plan.launch.layer[k];
      attach_weight(layer, in_rows[i], const_cast<void*>(in_rows[i].const_data_ptr()));
      layer.start = static_cast<const float*>(start[i].const_data_ptr());
      layer.v = floats(v[i]);
      layer.u = floats(u[i]);
      layer.sigma = floats(sigma) + i;
    }
    check_launch(cuda::launch_power_iteration(plan, plan.launch, stream));
  }
  return {sigma, v, u};
}

std::vector<Tensor> power_iteration_backward_cuda(const Tensor& grad_sigma_any, const std::vector<Tensor>& v_any,
                                                  const std::vector<Tensor>& u_any,
                                                  const std::vector<int64_t>& numbers) {
  const int32_t device = grad_sigma_any.get_device_index();
  const accelerator::DeviceGuard guard(device);
  const std::shared_ptr<const Plans> plans = plans_for(numbers, device, 0);
  const size_t count = plans->layers.size();
  STD_TORCH_CHECK(v_any.size() == count && u_any.size() == count, "power_iteration_backward: got ", v_any.size(),
                  " and ", u_any.size(), " iterates for ", count, " layers");
  const Tensor grad_sigma = check_iterate(grad_sigma_any, static_cast<int64_t>(count), device);
  std::vector<Tensor> v, u, gradients;
  for (size_t i = 0; i < count; ++i) {
    const Description& description = plans->layers[i];
    v.push_back(check_iterate(v_any[i], description.layer.input_size(), device));
    u.push_back(check_iterate(u_any[i], description.layer.output_size(), device));
    const MemoryFormat format = description.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
    gradients.push_back(torch::stable::empty(description.weight_size,
                                             kTypes[static_cast<int>(description.layer.weight.element)], std::nullopt,
                                             grad_sigma.device(), std::nullopt, format));
  }
  void* const stream = current_stream(device);
  for (const Plan& planned : plans->gradient) {
    Plan plan = planned;
    for (int k = 0; k < plan.launch.layers; ++k) {
      const auto i = static_cast<size_t>(plan.order[static_cast<size_t>(k)]);
      cuda::LayerPlan& layer = plan.launch.layer[k];
      attach_weight(layer, gradients[i], gradients[i].mutable_data_ptr());
      layer.v = floats(v[i]);
      layer.u = floats(u[i]);
      layer.sigma = floats(grad_sigma) + i;
    }
    check_launch(cuda::launch_power_iteration_gradient(plan, stream));
  }
  return gradients;
}

// Why these layers do not run in the kernels on device number `device`, in one line; empty where they do: every layer
// fits into its shared memory, and the driver has taken a cooperative launch of as many blocks.
std::string power_iteration_refusal(int64_t device, const std::vector<int64_t>& numbers) {
  try {
    static_cast<void>(read_card(static_cast<int32_t>(device)));  // names a missing driver better than the guard does
    const accelerator::DeviceGuard guard(static_cast<int32_t>(device));
    static_cast<void>(plans_for(numbers, static_cast<int32_t>(device), 0));
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

// How many multiprocessors of device number `device` these layers need (cuda::enough_multiprocessors).
int64_t power_iteration_enough_multiprocessors(int64_t device, const std::vector<int64_t>& numbers) {
  return cuda::enough_multiprocessors(layers_of(cpu::read_layers(numbers)), read_card(static_cast<int32_t>(device)));
}

}  // namespace

}  // namespace gloro_fast

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CUDA, m) {
  m.impl("power_iteration", TORCH_BOX(&gloro_fast::power_iteration_cuda));
  m.impl("power_iteration_backward", TORCH_BOX(&gloro_fast::power_iteration_backward_cuda));
}

// Take no tensor, and so are not a device's.
STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CompositeImplicitAutograd, m) {
  m.impl("power_iteration_refusal", TORCH_BOX(&gloro_fast::power_iteration_refusal));
  m.impl("power_iteration_enough_multiprocessors", TORCH_BOX(&gloro_fast::power_iteration_enough_multiprocessors));
}
