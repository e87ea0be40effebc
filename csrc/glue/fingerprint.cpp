#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <vector>

#include "../cpu/fingerprint.h"
#include "access.h"
#include "new_tensor.h"

namespace gloro_fast {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kWordsPerPiece = 16384;

// A run of words of one tensor, small enough to be shared out among threads.
struct Piece {
  const uint8_t* data;
  int64_t bytes;
  int64_t begin;
  int64_t end;
  size_t tensor;
};

// One hash a tensor: see the schema and gloro_fast/ops/fingerprint_op.py.
Tensor fingerprint_cpu(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> all;  // keeps the copies of strided tensors alive
  all.reserve(tensors.size());
  std::vector<Piece> pieces;
  for (size_t t = 0; t < tensors.size(); ++t) {
    STD_TORCH_CHECK(tensors[t].is_cpu(), "fingerprint: tensor ", t, " is not on the CPU");
    all.push_back(dense(tensors[t]));
    const int64_t bytes = all[t].numel() * static_cast<int64_t>(all[t].element_size());
    const int64_t words = (bytes + 7) / 8;
    for (int64_t begin = 0; begin < words; begin += kWordsPerPiece) {
      pieces.push_back({data<uint8_t>(all[t]), bytes, begin, std::min(begin + kWordsPerPiece, words), t});
    }
  }
  std::vector<uint64_t> shares(pieces.size());
  torch::stable::parallel_for(0, static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto p = static_cast<size_t>(begin); p < static_cast<size_t>(end); ++p) {
      shares[p] = cpu::fingerprint(pieces[p].data, pieces[p].bytes, pieces[p].begin, pieces[p].end);
    }
  });
  const Tensor hashes = new_tensor({static_cast<int64_t>(tensors.size())}, ScalarType::Long);
  auto* values = mutable_data<uint64_t>(hashes);
  std::fill_n(values, tensors.size(), uint64_t{0});
  for (size_t p = 0; p < pieces.size(); ++p) values[pieces[p].tensor] += shares[p];
  return hashes;
}

}  // namespace

}  // namespace gloro_fast

STABLE_TORCH_LIBRARY_FRAGMENT(gloro_fast, m) {
  m.def("fingerprint(Tensor[] tensors) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("fingerprint", TORCH_BOX(&gloro_fast::fingerprint_cpu));
}
