// The layers of a network as integers: what the ops are given beside the tensors.
//
// A run of integers a layer: spatial dimensions r (0 for a dense layer, 1 or 2), type of the weight (0 float32,
// 1 float64, 2 bfloat16, 3 float16), 1 if its gradient shall be channels_last, outputs, inputs, groups, and for each
// spatial dimension input size, kernel, stride, zeros before, zeros after, dilation.
// gloro_fast/ops/power_iteration_op.py writes it.
#pragma once

#include <cstdint>
#include <vector>

#include "power_iteration_layer.h"

namespace gloro_fast::cpu {

struct Description {
  LinearLayer layer;  // without the weight's memory; its strides are those of a contiguous weight
  std::vector<int64_t> weight_size;
  bool channels_last;

  std::vector<int64_t> output_size() const;
};

// Throws std::runtime_error, with a reason in one line, where the integers describe no layers.
std::vector<Description> read_layers(const std::vector<int64_t>& numbers);

}  // namespace gloro_fast::cpu
