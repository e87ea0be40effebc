// Blocks of a kernel that a multiprocessor holds at once, by the CUDA toolkit's own calculator. Arguments: major and
// minor of the compute capability, registers of a thread, threads and dynamic shared bytes of a block, shared bytes
// of a multiprocessor.
#include <cuda_occupancy.h>

#include <cstdio>
#include <cstdlib>

int main(int count, char** arguments) {
  if (count != 7) return 2;
  const auto number = [&](int i) { return std::atoi(arguments[i]); };
  cudaOccDeviceProp card{};
  card.computeMajor = number(1);
  card.computeMinor = number(2);
  card.maxThreadsPerBlock = 1024;
  card.maxThreadsPerMultiprocessor =
      card.computeMajor == 9 || (card.computeMajor == 8 && card.computeMinor == 0) || card.computeMajor == 10 ? 2048
                                                                                                              : 1536;
  card.regsPerBlock = 65536;
  card.regsPerMultiprocessor = 65536;
  card.warpSize = 32;
  card.sharedMemPerBlock = 48 << 10;
  card.sharedMemPerMultiprocessor = static_cast<size_t>(number(6));
  card.numSms = 1;
  card.sharedMemPerBlockOptin = card.sharedMemPerMultiprocessor - 1024;
  card.reservedSharedMemPerBlock = 1024;
  cudaOccFuncAttributes kernel{};
  kernel.maxThreadsPerBlock = 1024;
  kernel.numRegs = number(3);
  kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = static_cast<size_t>(number(5));
  kernel.numBlockBarriers = 1;
  cudaOccDeviceState state{};
  state.cacheConfig = CACHE_PREFER_SHARED;
  state.carveoutConfig = 100;
  cudaOccResult result{};
  const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &card, &kernel, &state, number(4),
                                                                     static_cast<size_t>(number(5)));
  if (error != CUDA_OCC_SUCCESS) return 3;
  std::printf("%d\n", result.activeBlocksPerMultiprocessor);
  return 0;
}
