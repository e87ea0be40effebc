// One linear layer as power iteration sees it: the shape of its map and where its weight lies.
#pragma once

#include <cstdint>

#include "half.h"

namespace gloro_fast::cpu {

enum class Element { float32, float64, bfloat16, float16 };

// The weight (out, in / groups, height, width) of a layer; a dense layer's is 1 x 1.
struct Weight {
  void* data;  // read by the forward pass, written by the gradient
  Element element;
  int64_t strides[4];  // in elements
};

// What happens along the height or the width of a convolution.
struct Axis {
  int64_t input = 1;
  int64_t output = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t padding = 0;  // zeros before; those after follow from `output`
};

struct LinearLayer {
  bool dense = true;
  int64_t outputs = 0;  // channels, or features of a dense layer
  int64_t inputs = 0;
  int64_t groups = 1;
  Axis height;
  Axis width;
  Weight weight{};

  int64_t group_inputs() const { return inputs / groups; }
  int64_t group_outputs() const { return outputs / groups; }
  int64_t input_pixels() const { return height.input * width.input; }
  int64_t output_pixels() const { return height.output * width.output; }
  int64_t input_size() const { return inputs * input_pixels(); }
  int64_t output_size() const { return outputs * output_pixels(); }
  int64_t taps() const { return height.kernel * width.kernel; }
  // Multiplications of one application, as of one application of the transpose.
  double products() const {
    return static_cast<double>(outputs) * static_cast<double>(group_inputs() * taps() * output_pixels());
  }
};

// Calls function with a pointer to the weight's elements in their own type.
template <typename Function>
void with_elements(const Weight& weight, const Function& function) {
  switch (weight.element) {
    case Element::float32:
      return function(static_cast<float*>(weight.data));
    case Element::float64:
      return function(static_cast<double*>(weight.data));
    case Element::bfloat16:
      return function(static_cast<BFloat16*>(weight.data));
    case Element::float16:
      return function(static_cast<Half*>(weight.data));
  }
}

// A value of one float type as another; the half types go through float.
template <typename To, typename From>
To convert(From value) {
  return narrow<To>(static_cast<decltype(widen(To{}))>(widen(value)));
}

}  // namespace gloro_fast::cpu
