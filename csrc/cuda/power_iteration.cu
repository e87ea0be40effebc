#include "power_iteration.h"

#include <cuda_runtime_api.h>

#include "power_iteration.cuh"

namespace gloro_fast::cuda {

namespace {

const char* reason(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  static_cast<void>(cudaGetLastError());  // an error that was reported does not come up again in somebody else's call
  return cudaGetErrorString(status);
}

template <typename Kernel>
const char* launch_kernel(Kernel kernel, const Plan& plan, const Launch& launch, void* stream, bool cooperative) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = cooperative ? 1 : 0;
  return reason(cudaLaunchKernelEx(&config, kernel, launch));
}

template <typename Kernel>
cudaError_t prepare(Kernel kernel, const Card& card) {
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, card.shared_bytes_per_block);
  if (status != cudaSuccess) return status;
  // The planner gives the blocks of a multiprocessor all of its shared memory; the driver shall not make it cache.
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

}  // namespace

const char* read_card(int device, Card* card) {
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } wanted[] = {
      {cudaDevAttrMultiProcessorCount, &card->multiprocessors},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &card->shared_bytes},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &card->shared_bytes_per_block},
      {cudaDevAttrReservedSharedMemoryPerBlock, &card->reserved_bytes_per_block},
      {cudaDevAttrCooperativeLaunch, &card->cooperative},
      {cudaDevAttrComputeCapabilityMajor, &card->major},
      {cudaDevAttrComputeCapabilityMinor, &card->minor},
  };
  for (const auto& [attribute, value] : wanted) {
    const cudaError_t status = cudaDeviceGetAttribute(value, attribute, device);
    if (status != cudaSuccess) return reason(status);
  }
  return nullptr;
}

const char* prepare_power_iteration(const Card& card) {
  for (const auto kernel : {power_iteration_kernel, power_iteration_wide_kernel, power_iteration_gradient_kernel,
                            power_iteration_wide_gradient_kernel}) {
    const cudaError_t status = prepare(kernel, card);
    if (status != cudaSuccess) return reason(status);
  }
  return nullptr;
}

int resident_blocks(const Plan& plan) {
  int blocks = 0;
  const cudaError_t status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, plan.wide ? power_iteration_wide_kernel : power_iteration_kernel, kThreads,
      static_cast<size_t>(plan.shared_bytes));
  return reason(status) == nullptr ? blocks : 0;
}

const char* launch_power_iteration(const Plan& plan, const Launch& launch, void* stream) {
  return launch_kernel(plan.wide ? power_iteration_wide_kernel : power_iteration_kernel, plan, launch, stream, true);
}

const char* launch_power_iteration_gradient(const Plan& plan, void* stream) {
  return launch_kernel(plan.wide ? power_iteration_wide_gradient_kernel : power_iteration_gradient_kernel, plan,
                       plan.launch, stream, false);
}

}  // namespace gloro_fast::cuda
