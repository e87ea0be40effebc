// What was built, what this machine can run, and the launch planner. The build passes the facts as macros; no torch
// here.
#include <pybind11/pybind11.h>

#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "cpu/simd.h"
#include "planner_bindings.h"

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

const char* simd() {
  using gloro_fast::cpu::Simd;
  switch (gloro_fast::cpu::simd_level()) {
    case Simd::avx512:
      return "avx512";
    case Simd::avx2:
      return "avx2";
    case Simd::portable:
      break;
  }
  return "portable";
}

// As the processor names it, "GenuineIntel" or "AuthenticAMD"; empty where it is no x86.
std::string processor_vendor() {
#if defined(__x86_64__)
  unsigned int leaf = 0, words[3] = {};
  if (__get_cpuid(0, &leaf, &words[0], &words[2], &words[1])) return {reinterpret_cast<const char*>(words), 12};
#endif
  return {};
}

}  // namespace

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "Facts about how the compiled part of gloro_fast was built.";
  m.attr("version") = GLORO_FAST_VERSION;
  m.attr("torch") = GLORO_FAST_TORCH;
  m.attr("compiler") = compiler();
  m.attr("nvcc") = GLORO_FAST_NVCC;
  m.attr("cuda_architectures") = GLORO_FAST_CUDA_ARCHITECTURES;
  m.def("simd", &simd, "The vector instructions that the CPU kernels use: avx512, avx2 or portable.");
  m.def("processor_vendor", &processor_vendor, "Who made the processor, as it says itself; empty off x86.");
  gloro_fast::bind_planner(m);
}
