// New CPU tensors, uninitialised. The stable ABI's empty_like and new_empty look an op up by its name at every
// call, which on the small tensors of training costs more than the kernels; these go straight to the allocator.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace gloro_fast {

// Of the size, strides and type of x, which has no gaps and no overlaps. Large memory that is fresh from the
// system is asked for in huge pages: see is_fresh.
torch::stable::Tensor new_like(const torch::stable::Tensor& x);

// Whether the memory of a new tensor has not been touched yet, so that the system will clear each page when it is:
// glibc asks the system anew for every block above 32 MB. With pages of 4 KB that costs more than any kernel here
// (64 MB: 40 ms, with huge pages 16, against 9 for a copy); and since clearing leaves the page in the caches,
// streaming past them then loses a third instead of winning one.
bool is_fresh(const torch::stable::Tensor& x);

// Of this size and type, row by row or, with four dimensions, channels_last.
torch::stable::Tensor new_tensor(const std::vector<int64_t>& size, torch::headeronly::ScalarType type,
                                 bool channels_last = false);

}  // namespace gloro_fast
