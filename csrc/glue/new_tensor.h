// New CPU tensors, uninitialised. The stable ABI's empty_like and new_empty look an op up by its name at every
// call, which on the small tensors of training costs more than the kernels; these go straight to the allocator.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace gloro_fast {

// Of the size, strides and type of x, which has no gaps and no overlaps.
torch::stable::Tensor new_like(const torch::stable::Tensor& x);

// (length,), of the type of x.
torch::stable::Tensor new_vector(const torch::stable::Tensor& x, int64_t length);

// uint8, (rows, columns) or (columns,).
torch::stable::Tensor new_bytes(int64_t rows, int64_t columns);
torch::stable::Tensor new_bytes(int64_t columns);

}  // namespace gloro_fast
