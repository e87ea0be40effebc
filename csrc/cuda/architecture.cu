#include "architecture.h"

#include <cuda_runtime_api.h>

#include "architecture.cuh"

namespace gloro_fast::cuda {

const char* launch_architecture(int* result, void* stream) {
  write_architecture<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(result);
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace gloro_fast::cuda
