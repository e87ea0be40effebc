// The gradient of the estimates: d sigma / dW = u v^T, of a convolution its weight gradient at input v and output
// gradient u. Every element is one sum over the output pixels, rounded to the weight's type once.
#include <algorithm>
#include <type_traits>

#include "power_iteration_buffer.h"
#include "power_iteration_grid.h"
#include "power_iteration_jobs.h"

namespace gloro_fast::cpu {

namespace {

constexpr int64_t kElementsPerChunk = 32768;
constexpr int64_t kProductsPerChunk = 400000;

template <typename T>
class DenseGradient final : public Job {
 public:
  DenseGradient(const LinearLayer& layer, const T* v, const T* u, T scale)
      : layer_(layer), v_(v), u_(u), scale_(scale), rows_(std::max<int64_t>(1, kElementsPerChunk / layer.inputs)) {}

  double cost() const override { return 20 * layer_.products(); }
  int64_t chunks() const override { return (layer_.outputs + rows_ - 1) / rows_; }
  bool advance() override { return false; }

  void run(int64_t chunk) override {
    const int64_t end = std::min((chunk + 1) * rows_, layer_.outputs);
    const int64_t* strides = layer_.weight.strides;
    with_elements(layer_.weight, [&](auto* elements) {
      using W = std::remove_pointer_t<decltype(elements)>;
      for (int64_t row = chunk * rows_; row < end; ++row) {
        W* to = elements + row * strides[0];
        const T factor = scale_ * u_[row];
        if (strides[1] == 1) {
          for (int64_t column = 0; column < layer_.inputs; ++column) to[column] = convert<W>(factor * v_[column]);
        } else {
          for (int64_t column = 0; column < layer_.inputs; ++column)
            to[column * strides[1]] = convert<W>(factor * v_[column]);
        }
      }
    });
  }

 private:
  const LinearLayer& layer_;
  const T* v_;
  const T* u_;
  T scale_;
  int64_t rows_;
};

template <typename T>
class ConvGradient final : public Job {
 public:
  ConvGradient(const LinearLayer& layer, const T* v, const T* u, T scale, const Kernels<T>& kernels)
      : layer_(layer),
        v_(v),
        u_(u),
        scale_(scale),
        kernels_(kernels),
        grid_(layer),
        channels_((layer.group_outputs() + kFlatMultiple - 1) / kFlatMultiple * kFlatMultiple),
        columns_(layer.group_inputs() * layer.taps()),
        planes_(grid_.phases() * layer.inputs * grid_.plane() + 2 * grid_.guard()),
        transposed_(layer.groups * layer.output_pixels() * channels_) {
    const int64_t products = kCorrelateTaps * channels_ * layer.output_pixels();
    tiles_ = std::max<int64_t>(1, kProductsPerChunk / products);
  }

  double cost() const override { return layer_.products(); }

  int64_t chunks() const override {
    if (preparing_) return 2;
    const int64_t columns = tiles_ * kCorrelateTaps;
    return layer_.groups * ((columns_ + columns - 1) / columns);
  }

  bool advance() override {
    if (!preparing_) return false;
    preparing_ = false;
    return true;
  }

  void run(int64_t chunk) override {
    if (!preparing_) return correlate(chunk);
    if (chunk == 0) return scatter();
    transpose();
  }

 private:
  // The planes of v, as in the forward pass.
  void scatter() {
    std::fill_n(planes_.data(), planes_.size(), T{0});
    const int64_t phase_step = layer_.inputs * grid_.plane();
    for (int64_t channel = 0; channel < layer_.inputs; ++channel)
      grid_.scatter_input(v_ + channel * layer_.input_pixels(),
                          planes_.data() + grid_.guard() + channel * grid_.plane(), phase_step);
  }

  // u by (group, pixel, channel), so that neighbouring channels fill a vector.
  void transpose() {
    std::fill_n(transposed_.data(), transposed_.size(), T{0});
    const int64_t pixels = layer_.output_pixels();
    for (int64_t channel = 0; channel < layer_.outputs; ++channel) {
      T* to =
          transposed_.data() + channel / layer_.group_outputs() * pixels * channels_ + channel % layer_.group_outputs();
      for (int64_t pixel = 0; pixel < pixels; ++pixel) to[pixel * channels_] = u_[channel * pixels + pixel];
    }
  }

  void correlate(int64_t chunk) {
    const int64_t width = tiles_ * kCorrelateTaps;
    const int64_t chunks_a_group = (columns_ + width - 1) / width;
    const int64_t group = chunk / chunks_a_group;
    const int64_t begin = chunk % chunks_a_group * width;
    const int64_t end = std::min(begin + width, columns_);
    const T* u = transposed_.data() + group * layer_.output_pixels() * channels_;
    const T* planes = planes_.data() + grid_.guard() + group * layer_.group_inputs() * grid_.plane();
    Buffer<T> tile(kCorrelateTaps * channels_);
    for (int64_t first = begin; first < end; first += kCorrelateTaps) {
      int64_t offsets[kCorrelateTaps];
      int64_t elements[kCorrelateTaps];
      for (int64_t j = 0; j < kCorrelateTaps; ++j) locate(std::min(first + j, columns_ - 1), offsets[j], elements[j]);
      kernels_.correlate(u, channels_, planes, offsets, layer_.height.output, layer_.width.output, grid_.pitch(),
                         tile.data());
      write(tile.data(), group * layer_.group_outputs(), elements, std::min(kCorrelateTaps, end - first));
    }
  }

  // Where weight (channel, tap) of every output reads, and where it lies.
  void locate(int64_t column, int64_t& offset, int64_t& element) const {
    const int64_t channel = column / layer_.taps();
    const Tap& tap = grid_.taps()[static_cast<size_t>(column % layer_.taps())];
    const int64_t* strides = layer_.weight.strides;
    offset = (tap.phase * layer_.inputs + channel) * grid_.plane() + tap.offset;
    element = channel * strides[1] + tap.row * strides[2] + tap.column * strides[3];
  }

  void write(const T* tile, int64_t first_output, const int64_t* elements, int64_t columns) const {
    bool whole = columns == kCorrelateTaps;  // and side by side in memory: twice as fast
    for (int64_t j = 0; j < columns; ++j) whole = whole && elements[j] == elements[0] + j;
    with_elements(layer_.weight, [&](auto* weight) {
      using W = std::remove_pointer_t<decltype(weight)>;
      for (int64_t output = 0; output < layer_.group_outputs(); ++output) {
        const T* from = tile + output;
        W* to = weight + (first_output + output) * layer_.weight.strides[0];
        if (whole) {
          for (int64_t j = 0; j < kCorrelateTaps; ++j) to[elements[0] + j] = convert<W>(scale_ * from[j * channels_]);
        } else {
          for (int64_t j = 0; j < columns; ++j) to[elements[j]] = convert<W>(scale_ * from[j * channels_]);
        }
      }
    });
  }

  const LinearLayer& layer_;
  const T* v_;
  const T* u_;
  T scale_;
  const Kernels<T>& kernels_;
  Grid grid_;
  int64_t channels_;  // of a group, rounded up to whole vectors
  int64_t columns_;   // weights of one output
  int64_t tiles_;     // of kCorrelateTaps columns, in a chunk
  Buffer<T> planes_;
  Buffer<T> transposed_;
  bool preparing_ = true;
};

}  // namespace

template <typename T>
std::unique_ptr<Job> conv_gradient(const LinearLayer& layer, const T* v, const T* u, T scale,
                                   const Kernels<T>& kernels) {
  return std::make_unique<ConvGradient<T>>(layer, v, u, scale, kernels);
}

template <typename T>
std::unique_ptr<Job> dense_gradient(const LinearLayer& layer, const T* v, const T* u, T scale) {
  return std::make_unique<DenseGradient<T>>(layer, v, u, scale);
}

#define GLORO_FAST_INSTANTIATE(T)                                                                            \
  template std::unique_ptr<Job> conv_gradient(const LinearLayer&, const T*, const T*, T, const Kernels<T>&); \
  template std::unique_ptr<Job> dense_gradient(const LinearLayer&, const T*, const T*, T);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
