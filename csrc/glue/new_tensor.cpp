#include "new_tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gloro_fast {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor new_tensor(int64_t dim, const int64_t* size, const int64_t* strides, ScalarType type) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, size, strides, static_cast<int32_t>(type),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

int64_t bytes_of(const Tensor& x) {
  return x.numel() * static_cast<int64_t>(x.element_size());
}

// Below this glibc gives memory back to the tensors after it, and huge pages hardly fit.
constexpr int64_t kLarge = int64_t{16} << 20;

void ask_for_huge_pages(const Tensor& x) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(x.const_data_ptr()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(x.const_data_ptr()) + bytes_of(x)) / page * page;
  // A wish: where the system has none, all goes on as before.
  static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
#else
  static_cast<void>(x);
#endif
}

}  // namespace

bool is_fresh(const Tensor& x) {
#if defined(__linux__)
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto middle = reinterpret_cast<uintptr_t>(x.const_data_ptr()) + static_cast<uintptr_t>(bytes_of(x) / 2);
  unsigned char resident = 1;
  if (mincore(reinterpret_cast<void*>(middle / page * page), 1, &resident) == 0) return (resident & 1) == 0;
#else
  static_cast<void>(x);
#endif
  return false;
}

Tensor new_like(const Tensor& x) {
  const Tensor result = new_tensor(x.dim(), x.sizes().data(), x.strides().data(), x.scalar_type());
  if (bytes_of(result) >= kLarge && is_fresh(result)) ask_for_huge_pages(result);
  return result;
}

Tensor new_tensor(const std::vector<int64_t>& size, ScalarType type, bool channels_last) {
  const size_t dim = size.size();
  std::vector<int64_t> strides(dim);
  int64_t step = 1;
  for (size_t i = 0; i < dim; ++i) {
    // Innermost first: in channels_last the channels, then the width, the height and the batch.
    const size_t axis = channels_last ? (i == 0 ? 1 : (i == dim - 1 ? 0 : dim - i)) : dim - 1 - i;
    strides[axis] = step;
    step *= size[axis];
  }
  return new_tensor(static_cast<int64_t>(dim), size.data(), strides.data(), type);
}

}  // namespace gloro_fast
