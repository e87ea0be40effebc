// Weights and vectors of a wide layer as the tensor cores want them: channels last, those of a group rounded up to
// slices, with zeros. Packed once a launch; float32, whatever the weights' type and strides.
#pragma once

#include "dialect.cuh"
#include "power_iteration_plan.h"
#include "power_iteration_values.cuh"

namespace gloro_fast::cuda {

// Where the packed arrays lie in `spare`, one after the other.
struct Packed {
  int inputs, outputs;  // channels of a group, zeros included
  float* weights;       // group x tap x output x input
  float* v[2];          // pixel x channel
  float* u;

  GLORO_FAST_DEVICE explicit Packed(const LayerPlan& layer) {
    inputs = (layer.group_inputs + kSlice - 1) / kSlice * kSlice;
    outputs = (layer.group_outputs + kSlice - 1) / kSlice * kSlice;
    const int64_t pairs = static_cast<int64_t>(layer.groups) * inputs * outputs;
    const int64_t iterate = static_cast<int64_t>(layer.groups) * inputs * layer.height.input * layer.width.input;
    weights = layer.spare;
    v[0] = weights + pairs * layer.height.kernel * layer.width.kernel;
    v[1] = v[0] + iterate;
    u = v[1] + iterate;
  }
};

// A group's blocks share the elements of a vector among them. Eight lanes follow the pixels and four the channels, so
// that both layouts see whole sectors of 32 bytes, or half of them.
struct VectorElement {
  int pixel, group, channel;
  int packed, plain;  // where it lies
  bool real;          // and not a zero beyond the channels

  GLORO_FAST_DEVICE VectorElement(int64_t index, int channels, int padded, int groups, int pixels) {
    const int fours = groups * padded / 4;
    const int64_t octet = (index >> 5) / fours;
    const int of_all = static_cast<int>((index >> 5) - octet * fours) * 4 + (static_cast<int>(index >> 3) & 3);
    pixel = static_cast<int>(octet) * 8 + (static_cast<int>(index) & 7);
    group = of_all / padded, channel = of_all % padded;
    packed = pixel * groups * padded + of_all;
    plain = (group * channels + channel) * pixels + pixel;
    real = channel < channels;
  }
  GLORO_FAST_DEVICE static int64_t count(int padded, int groups, int pixels) {
    return static_cast<int64_t>(pixels + 7) / 8 * 8 * groups * padded;
  }
};

// Packs the weights and the iterate that the launch starts from, which becomes v[1].
GLORO_FAST_DEVICE void pack_layer(const LayerPlan& layer) {
  const Packed packed(layer);
  const int thread = (static_cast<int>(blockIdx.x) - layer.first_block) * kThreads + static_cast<int>(threadIdx.x);
  const int step = layer.blocks * kThreads;
  const int taps_x = layer.width.kernel, taps = layer.height.kernel * taps_x;
  const int pairs = packed.outputs * packed.inputs;
  for (int64_t i = thread; i < static_cast<int64_t>(layer.groups) * pairs; i += step) {
    const int group = static_cast<int>(i / pairs), pair = static_cast<int>(i % pairs);
    const int output = pair / packed.inputs, input = pair % packed.inputs;
    const bool real = output < layer.group_outputs && input < layer.group_inputs;
    const int64_t from = (static_cast<int64_t>(group) * layer.group_outputs + output) * layer.weight_strides[0] +
                         static_cast<int64_t>(input) * layer.weight_strides[1];
    float* const to = packed.weights + static_cast<int64_t>(group) * taps * pairs + pair;
    for (int tap = 0; tap < taps; ++tap) {
      const int64_t at = from + static_cast<int64_t>(tap / taps_x) * layer.weight_strides[2] +
                         static_cast<int64_t>(tap % taps_x) * layer.weight_strides[3];
      to[static_cast<int64_t>(tap) * pairs] = real ? load_weight(layer.weight, layer.type, at) : 0.0f;
    }
  }
  const int pixels = layer.height.input * layer.width.input;
  const int64_t count = VectorElement::count(packed.inputs, layer.groups, pixels);
  for (int64_t i = thread; i < count; i += step) {
    const VectorElement element(i, layer.group_inputs, packed.inputs, layer.groups, pixels);
    if (element.pixel < pixels) packed.v[1][element.packed] = element.real ? layer.start[element.plain] : 0.0f;
  }
}

// Writes a packed vector times `scale` as the plain one that it is.
GLORO_FAST_DEVICE void unpack_vector(float* to, const float* from, int channels, int groups, int pixels, Scale scale,
                                     int thread, int step) {
  const int padded = (channels + kSlice - 1) / kSlice * kSlice;
  const int64_t count = VectorElement::count(padded, groups, pixels);
  for (int64_t i = thread; i < count; i += step) {
    const VectorElement element(i, channels, padded, groups, pixels);
    if (element.pixel < pixels && element.real) to[element.plain] = from[element.packed] * scale;
  }
}

}  // namespace gloro_fast::cuda
