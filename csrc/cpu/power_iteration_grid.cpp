#include "power_iteration_grid.h"

#include <algorithm>

namespace gloro_fast::cpu {

namespace {

struct Step {
  int64_t phase;
  int64_t position;
};

Step step_of(const Axis& axis, int64_t tap) {
  const int64_t distance = axis.dilation * tap - axis.padding;
  const int64_t phase = ((distance % axis.stride) + axis.stride) % axis.stride;
  return {phase, (distance - phase) / axis.stride};
}

// Pixels of a phase.
int64_t extent(const Axis& axis, int64_t phase) {
  return std::max<int64_t>(0, (axis.input - phase + axis.stride - 1) / axis.stride);
}

int64_t round_up(int64_t n) {
  return (n + kFlatMultiple - 1) / kFlatMultiple * kFlatMultiple;
}

// The distance between two runs (of inputs and of outputs alike) at which the reach of the taps stays in the gap.
int64_t separation(int64_t inputs, int64_t outputs, int64_t lowest, int64_t highest) {
  return std::max({inputs, outputs, inputs - lowest, outputs + highest});
}

}  // namespace

Grid::Grid(const LinearLayer& layer) : height_(layer.height), width_(layer.width) {
  // The taps lie in order of their distance, so the first and the last reach farthest.
  const int64_t left = step_of(width_, 0).position;
  const int64_t right = step_of(width_, width_.kernel - 1).position;
  pitch_ = separation(extent(width_, 0), width_.output, left, right);
  taps_.reserve(static_cast<size_t>(layer.taps()));
  for (int64_t row = 0; row < height_.kernel; ++row)
    for (int64_t column = 0; column < width_.kernel; ++column) {
      const Step y = step_of(height_, row);
      const Step x = step_of(width_, column);
      taps_.push_back({y.phase * width_.stride + x.phase, y.position * pitch_ + x.position, row, column});
    }
  const auto [lowest, highest] =
      std::minmax_element(taps_.begin(), taps_.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
  const int64_t inputs = (extent(height_, 0) - 1) * pitch_ + extent(width_, 0);
  const int64_t outputs = (height_.output - 1) * pitch_ + width_.output;
  output_length_ = round_up(outputs);
  input_length_ = round_up(inputs);
  plane_ = round_up(separation(inputs, outputs, lowest->offset, highest->offset));
  guard_ = round_up(std::max(std::abs(lowest->offset), std::abs(highest->offset))) + kFlatMultiple;
}

int64_t Grid::phase_height(int64_t phase) const {
  return extent(height_, phase / width_.stride);
}

int64_t Grid::phase_width(int64_t phase) const {
  return extent(width_, phase % width_.stride);
}

template <typename T>
void Grid::write_mask(int64_t rows, int64_t columns, int64_t length, Mask<T>* mask) const {
  std::fill_n(mask, length, Mask<T>{0});
  for (int64_t y = 0; y < rows; ++y) std::fill_n(mask + y * pitch_, columns, Mask<T>{-1});
}

template <typename T>
void Grid::write_output_mask(Mask<T>* mask) const {
  write_mask<T>(height_.output, width_.output, output_length_, mask);
}

template <typename T>
void Grid::write_input_mask(int64_t phase, Mask<T>* mask) const {
  write_mask<T>(phase_height(phase), phase_width(phase), input_length_, mask);
}

template <typename T>
void Grid::scatter_input(const T* picture, T* planes, int64_t phase_step) const {
  const int64_t steps = width_.stride;
  for (int64_t phase = 0; phase < phases(); ++phase)
    for (int64_t y = 0; y < phase_height(phase); ++y) {
      const T* from = picture + (y * height_.stride + phase / steps) * width_.input + phase % steps;
      T* to = planes + phase * phase_step + y * pitch_;
      for (int64_t x = 0; x < phase_width(phase); ++x) to[x] = from[x * steps];
    }
}

template <typename T>
void Grid::gather_input(const T* planes, int64_t phase_step, double scale, T* picture) const {
  const int64_t steps = width_.stride;
  for (int64_t phase = 0; phase < phases(); ++phase)
    for (int64_t y = 0; y < phase_height(phase); ++y) {
      const T* from = planes + phase * phase_step + y * pitch_;
      T* to = picture + (y * height_.stride + phase / steps) * width_.input + phase % steps;
      for (int64_t x = 0; x < phase_width(phase); ++x) to[x * steps] = static_cast<T>(from[x] * scale);
    }
}

template <typename T>
void Grid::gather_output(const T* plane, double scale, T* picture) const {
  for (int64_t y = 0; y < height_.output; ++y)
    for (int64_t x = 0; x < width_.output; ++x)
      picture[y * width_.output + x] = static_cast<T>(plane[y * pitch_ + x] * scale);
}

#define GLORO_FAST_INSTANTIATE(T)                                        \
  template void Grid::write_output_mask<T>(Mask<T>*) const;              \
  template void Grid::write_input_mask<T>(int64_t, Mask<T>*) const;      \
  template void Grid::scatter_input(const T*, T*, int64_t) const;        \
  template void Grid::gather_input(const T*, int64_t, double, T*) const; \
  template void Grid::gather_output(const T*, double, T*) const;

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
