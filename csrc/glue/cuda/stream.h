#pragma once

#include <cstdint>

namespace gloro_fast {

// The current stream (a cudaStream_t) of GPU number `device`.
void* current_stream(int32_t device);

}  // namespace gloro_fast
