#include "new_tensor.h"

namespace gloro_fast {

namespace {

using torch::stable::Tensor;

Tensor new_tensor(int64_t dim, const int64_t* size, const int64_t* strides, int32_t type) {
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, size, strides, type, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

int32_t type_of(const Tensor& x) {
  int32_t type = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &type));
  return type;
}

}  // namespace

Tensor new_like(const Tensor& x) {
  return new_tensor(x.dim(), x.sizes().data(), x.strides().data(), type_of(x));
}

Tensor new_vector(const Tensor& x, int64_t length) {
  const int64_t stride = 1;
  return new_tensor(1, &length, &stride, type_of(x));
}

Tensor new_bytes(int64_t rows, int64_t columns) {
  const int64_t size[] = {rows, columns};
  const int64_t strides[] = {columns, 1};
  return new_tensor(2, size, strides, aoti_torch_dtype_uint8());
}

Tensor new_bytes(int64_t columns) {
  const int64_t stride = 1;
  return new_tensor(1, &columns, &stride, aoti_torch_dtype_uint8());
}

}  // namespace gloro_fast
