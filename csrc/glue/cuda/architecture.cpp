#include "architecture.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

#include "../../cuda/architecture.h"
#include "stream.h"

namespace gloro_fast {

torch::stable::Tensor architecture_cuda(const torch::stable::Tensor& like) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const auto result = torch::stable::new_empty(like, std::vector<int64_t>{1}, torch::headeronly::ScalarType::Int);
  void* const stream = current_stream(like.get_device_index());
  const char* const error = cuda::launch_architecture(static_cast<int*>(result.mutable_data_ptr()), stream);
  STD_TORCH_CHECK(error == nullptr, "architecture: the kernel could not be launched: ", error);
  return result;
}

}  // namespace gloro_fast
