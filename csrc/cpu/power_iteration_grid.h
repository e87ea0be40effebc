// The flat pictures ("planes") that turn any convolution into one of stride 1 without edges.
//
// Input pixel i of an axis is phase i mod stride at grid position i / stride; each (phase, channel) is a plane of
// its own, so that output o reads, through tap t, phase r at position o + q with (q, r) from
// dilation * t - padding = stride * q + r. Along the flat plane a tap is then one constant offset. Rows are
// `pitch` apart, just far enough that whatever a tap reads beyond a row's ends is zero: the zeros after one row
// are the zeros before the next, and the same holds from plane to plane. Outputs lie on the same grid, so the
// transpose is the same with the offsets negated.
//
// Positions between the rows are computed like all others and cleared by a mask: 3 % more work for 32 x 32, 14 % for
// 14 x 14, 30 % for 7 x 7 (rounding up to whole vectors included).
#pragma once

#include <cstdint>
#include <vector>

#include "../common/power_iteration_layer.h"
#include "power_iteration_kernels.h"

namespace gloro_fast::cpu {

struct Tap {
  int64_t phase;
  int64_t offset;       // flat, may be negative
  int64_t row, column;  // in the kernel
};

class Grid {
 public:
  explicit Grid(const LinearLayer& layer);

  int64_t pitch() const { return pitch_; }
  // Elements from one plane to the next; a multiple of kFlatMultiple.
  int64_t plane() const { return plane_; }
  // Zeros that must surround the planes in memory, on either side.
  int64_t guard() const { return guard_; }
  // Flat positions of a plane that hold outputs (inputs), rounded up to kFlatMultiple.
  int64_t output_length() const { return output_length_; }
  int64_t input_length() const { return input_length_; }

  int64_t phases() const { return height_.stride * width_.stride; }
  // The taps in the order of the weight's memory, rows first.
  const std::vector<Tap>& taps() const { return taps_; }
  // Pixels of a phase along the height and the width; either may be 0.
  int64_t phase_height(int64_t phase) const;
  int64_t phase_width(int64_t phase) const;

  template <typename T>
  void write_output_mask(Mask<T>* mask) const;
  template <typename T>
  void write_input_mask(int64_t phase, Mask<T>* mask) const;

  // One channel of pictures to its planes, one a phase, `phase_step` elements apart, and back times `scale`.
  template <typename T>
  void scatter_input(const T* picture, T* planes, int64_t phase_step) const;
  template <typename T>
  void gather_input(const T* planes, int64_t phase_step, double scale, T* picture) const;
  template <typename T>
  void gather_output(const T* plane, double scale, T* picture) const;

 private:
  template <typename T>
  void write_mask(int64_t rows, int64_t columns, int64_t length, Mask<T>* mask) const;

  Axis height_;
  Axis width_;
  int64_t pitch_;
  int64_t plane_;
  int64_t guard_;
  int64_t output_length_;
  int64_t input_length_;
  std::vector<Tap> taps_;
};

}  // namespace gloro_fast::cpu
