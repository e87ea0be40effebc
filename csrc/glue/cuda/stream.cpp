#include "stream.h"

#include <dlfcn.h>
#include <torch/headeronly/util/Exception.h>

namespace gloro_fast {

namespace {

using GetStream = int32_t (*)(int32_t device, void** stream);

// The stable ABI gives a stream's handle from torch 2.13 on only; this function of the C shim is there before and
// after. It is found at run time, since the library with it is part of CUDA builds only, and this one loads into all.
GetStream find() {
  void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* const function = library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
  STD_TORCH_CHECK(function != nullptr, "gloro_fast: torch's libtorch_cuda.so, or its function ",
                  "aoti_torch_get_current_cuda_stream, is not loaded; install a CUDA build of PyTorch");
  return reinterpret_cast<GetStream>(function);
}

}  // namespace

void* current_stream(int32_t device) {
  static const GetStream get_stream = find();
  void* stream = nullptr;
  STD_TORCH_CHECK(get_stream(device, &stream) == 0, "gloro_fast: torch gives no current stream for GPU ", device);
  return stream;
}

}  // namespace gloro_fast
