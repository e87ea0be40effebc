// A convolution or its transpose as sums over taps: which planes, which offsets, which weights.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/power_iteration_layer.h"
#include "power_iteration_buffer.h"
#include "power_iteration_grid.h"
#include "power_iteration_kernels.h"

namespace gloro_fast::cpu {

// The taps of one output plane: where each reads, relative to the first input plane of its group, and where its
// weight lies, relative to the weight of the first output.
struct TapList {
  explicit TapList(int64_t size) {
    offsets.reserve(static_cast<size_t>(size));
    elements.reserve(static_cast<size_t>(size));
  }
  std::vector<int64_t> offsets;
  std::vector<int64_t> elements;
};

// Neighbouring output planes that share a list of taps.
struct Block {
  int64_t rows;
  int64_t list;
  int64_t out_plane;
  int64_t in_plane;
  int64_t element;  // the weight that the first row's list is relative to
  int64_t packed;   // where the block's weights begin, [tap][row]
};

template <typename T>
class Product {
 public:
  // u = A v: planes of v are ordered (phase, channel), those of u by channel.
  static Product forward(const LinearLayer& layer, const Grid& grid, const Kernels<T>& kernels);
  // v = A^T u.
  static Product transposed(const LinearLayer& layer, const Grid& grid, const Kernels<T>& kernels);

  // Blocks come in chunks of enough work for a thread to take one at a time.
  int64_t chunks() const { return static_cast<int64_t>(chunks_.size()) - 1; }
  // Prepares the masks, and a chunk's weights in the order in which they are read.
  void write_masks(const Grid& grid);
  void pack(const Weight& weight, int64_t chunk);
  // Computes the planes of a chunk, and the sum of squares of each; `in` and `out` are the first planes.
  void run(int64_t chunk, const T* in, T* out, Sum<T>* squares) const;

 private:
  Product(const Grid& grid, const Kernels<T>& kernels, int64_t length, bool transposed)
      : kernels_(kernels), plane_(grid.plane()), length_(length), transposed_(transposed) {}
  void add_blocks(int64_t list, int64_t planes, Block block, int64_t row_step);
  void close(int64_t row_step);

  const Kernels<T>& kernels_;
  int64_t plane_;
  int64_t length_;
  bool transposed_;
  int64_t row_step_ = 0;  // in the weight's memory, from one row of a block to the next
  int64_t packed_size_ = 0;
  std::vector<TapList> lists_;
  std::vector<Block> blocks_;
  std::vector<size_t> chunks_;  // first block of each, and the end
  Buffer<T> weights_;
  Buffer<Mask<T>> masks_;  // one a list
};

}  // namespace gloro_fast::cpu
