// What was built, and what this machine can run. The build passes the facts as macros; no torch here.
#include <pybind11/pybind11.h>

#include <string>

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

// The widest vector instructions that both the processor and the system offer, asked at run time.
std::string simd() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
  return "sse2";
#elif defined(__aarch64__)
  return "neon";
#else
  return "none";
#endif
}

}  // namespace

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "Facts about how the compiled part of gloro_fast was built.";
  m.attr("version") = GLORO_FAST_VERSION;
  m.attr("torch") = GLORO_FAST_TORCH;
  m.attr("compiler") = compiler();
  m.attr("nvcc") = GLORO_FAST_NVCC;
  m.attr("cuda_architectures") = GLORO_FAST_CUDA_ARCHITECTURES;
  m.def("simd", &simd, "The widest vector instruction set of this machine: avx512, avx2, sse2, neon or none.");
}
