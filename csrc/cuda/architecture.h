#pragma once

namespace gloro_fast::cuda {

// Writes the running architecture (900 for sm_90) to device memory, in order on `stream` (a cudaStream_t).
// Returns null, or why the launch failed.
const char* launch_architecture(int* result, void* stream);

}  // namespace gloro_fast::cuda
