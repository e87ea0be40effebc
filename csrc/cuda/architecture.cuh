// Which of the compiled architectures runs: the one the driver chose, or its just-in-time version of the PTX.
#pragma once

namespace gloro_fast::cuda {

__global__ void write_architecture(int* result) {
#ifdef __CUDA_ARCH__
  *result = __CUDA_ARCH__;
#endif
}

}  // namespace gloro_fast::cuda
