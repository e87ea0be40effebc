#include "simd.h"

#include <cstdlib>
#include <cstring>

namespace gloro_fast::cpu {

namespace {

Simd widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? Simd::avx512 : Simd::avx2;
  }
#endif
  return Simd::portable;
}

Simd cap() {
  const char* name = std::getenv("GLORO_FAST_SIMD");
  if (name != nullptr && std::strcmp(name, "portable") == 0) return Simd::portable;
  if (name != nullptr && std::strcmp(name, "avx2") == 0) return Simd::avx2;
  return Simd::avx512;
}

}  // namespace

Simd simd_level() {
  static const Simd machine = widest();
  const Simd most = cap();
  return machine < most ? machine : most;
}

}  // namespace gloro_fast::cpu
