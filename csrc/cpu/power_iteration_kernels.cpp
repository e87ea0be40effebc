#include "power_iteration_kernels.h"

namespace gloro_fast::cpu {

template <typename T>
const Kernels<T>& kernels(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) return avx512::kernels<T>();
  if (level == Simd::avx2) return avx2::kernels<T>();
#endif
  static_cast<void>(level);
  return portable::kernels<T>();
}

template const Kernels<float>& kernels(Simd);
template const Kernels<double>& kernels(Simd);

}  // namespace gloro_fast::cpu
