#include "power_iteration_product.h"

#include <algorithm>

namespace gloro_fast::cpu {

namespace {

// Multiplications a chunk should have: some ten microseconds, against less than one to hand it out.
constexpr int64_t kProductsPerChunk = 400000;

template <int kRows, typename T, typename W>
void pack_rows(const W* first, const std::vector<int64_t>& elements, int64_t row_step, T* to) {
  for (const int64_t element : elements) {
    for (int row = 0; row < kRows; ++row) to[row] = convert<T>(first[element + row * row_step]);
    to += kRows;
  }
}

}  // namespace

template <typename T>
Product<T> Product<T>::forward(const LinearLayer& layer, const Grid& grid, const Kernels<T>& kernels) {
  Product product(grid, kernels, grid.output_length(), false);
  const int64_t* strides = layer.weight.strides;
  TapList list(layer.group_inputs() * layer.taps());
  for (int64_t channel = 0; channel < layer.group_inputs(); ++channel)
    for (const Tap& tap : grid.taps()) {
      list.offsets.push_back((tap.phase * layer.inputs + channel) * grid.plane() + tap.offset);
      list.elements.push_back(channel * strides[1] + tap.row * strides[2] + tap.column * strides[3]);
    }
  product.lists_.push_back(std::move(list));
  for (int64_t group = 0; group < layer.groups; ++group) {
    const int64_t out_plane = group * layer.group_outputs();
    const Block block{0, 0, out_plane, group * layer.group_inputs(), out_plane * strides[0], 0};
    product.add_blocks(0, layer.group_outputs(), block, strides[0]);
  }
  product.close(strides[0]);
  return product;
}

template <typename T>
Product<T> Product<T>::transposed(const LinearLayer& layer, const Grid& grid, const Kernels<T>& kernels) {
  Product product(grid, kernels, grid.input_length(), true);
  const int64_t* strides = layer.weight.strides;
  product.lists_.reserve(static_cast<size_t>(grid.phases()));
  for (int64_t phase = 0; phase < grid.phases(); ++phase) {
    const auto of_phase = [&](const Tap& tap) { return tap.phase == phase; };
    TapList list(layer.group_outputs() * std::count_if(grid.taps().begin(), grid.taps().end(), of_phase));
    for (int64_t channel = 0; channel < layer.group_outputs(); ++channel)
      for (const Tap& tap : grid.taps()) {
        if (!of_phase(tap)) continue;
        list.offsets.push_back(channel * grid.plane() - tap.offset);
        list.elements.push_back(channel * strides[0] + tap.row * strides[2] + tap.column * strides[3]);
      }
    product.lists_.push_back(std::move(list));
    for (int64_t group = 0; group < layer.groups; ++group) {
      const int64_t in_plane = group * layer.group_outputs();
      const int64_t out_plane = phase * layer.inputs + group * layer.group_inputs();
      product.add_blocks(phase, layer.group_inputs(), {0, phase, out_plane, in_plane, in_plane * strides[0], 0},
                         strides[1]);
    }
  }
  product.close(strides[1]);
  return product;
}

template <typename T>
void Product<T>::add_blocks(int64_t list, int64_t planes, Block block, int64_t row_step) {
  const auto taps = static_cast<int64_t>(lists_[static_cast<size_t>(list)].offsets.size());
  block.rows = kernels_.max_rows;
  while (planes > 0) {
    while (block.rows > planes) block.rows /= 2;
    block.packed = packed_size_;
    blocks_.push_back(block);
    block.out_plane += block.rows;
    block.element += block.rows * row_step;
    packed_size_ += block.rows * taps;
    planes -= block.rows;
  }
}

template <typename T>
void Product<T>::close(int64_t row_step) {
  row_step_ = row_step;
  int64_t work = kProductsPerChunk;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    if (work >= kProductsPerChunk) {
      chunks_.push_back(i);
      work = 0;
    }
    const auto taps = static_cast<int64_t>(lists_[static_cast<size_t>(blocks_[i].list)].offsets.size());
    work += blocks_[i].rows * (taps + 1) * length_;
  }
  chunks_.push_back(blocks_.size());
  weights_ = Buffer<T>(packed_size_);
  masks_ = Buffer<Mask<T>>(static_cast<int64_t>(lists_.size()) * length_);
}

template <typename T>
void Product<T>::write_masks(const Grid& grid) {
  for (size_t list = 0; list < lists_.size(); ++list) {
    Mask<T>* mask = masks_.data() + static_cast<int64_t>(list) * length_;
    if (transposed_) {
      grid.write_input_mask<T>(static_cast<int64_t>(list), mask);
    } else {
      grid.write_output_mask<T>(mask);
    }
  }
}

template <typename T>
void Product<T>::pack(const Weight& weight, int64_t chunk) {
  with_elements(weight, [&](const auto* elements) {
    for (size_t i = chunks_[static_cast<size_t>(chunk)]; i < chunks_[static_cast<size_t>(chunk) + 1]; ++i) {
      const Block& block = blocks_[i];
      const std::vector<int64_t>& list = lists_[static_cast<size_t>(block.list)].elements;
      const auto* first = elements + block.element;
      T* to = weights_.data() + block.packed;
      if (block.rows == 8) {
        pack_rows<8>(first, list, row_step_, to);
      } else if (block.rows == 4) {
        pack_rows<4>(first, list, row_step_, to);
      } else if (block.rows == 2) {
        pack_rows<2>(first, list, row_step_, to);
      } else {
        pack_rows<1>(first, list, row_step_, to);
      }
    }
  });
}

template <typename T>
void Product<T>::run(int64_t chunk, const T* in, T* out, Sum<T>* squares) const {
  for (size_t i = chunks_[static_cast<size_t>(chunk)]; i < chunks_[static_cast<size_t>(chunk) + 1]; ++i) {
    const Block& block = blocks_[i];
    const TapList& list = lists_[static_cast<size_t>(block.list)];
    T* to = out + block.out_plane * plane_;
    kernels_.convolve(block.rows, weights_.data() + block.packed, list.offsets.data(),
                      static_cast<int64_t>(list.offsets.size()), in + block.in_plane * plane_, to, plane_,
                      masks_.data() + block.list * length_, length_);
    for (int64_t row = 0; row < block.rows; ++row)
      squares[block.out_plane + row] = kernels_.squares(to + row * plane_, length_);
  }
}

template class Product<float>;
template class Product<double>;

}  // namespace gloro_fast::cpu
