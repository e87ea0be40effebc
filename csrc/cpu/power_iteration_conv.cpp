// Power iteration through a convolution: phases A, A^T, A, A^T, ..., A, a chunk of output channels at a time.
#include <algorithm>
#include <utility>

#include "power_iteration_buffer.h"
#include "power_iteration_grid.h"
#include "power_iteration_jobs.h"
#include "power_iteration_product.h"

namespace gloro_fast::cpu {

namespace {

// The planes of all channels with zeros around them.
template <typename T>
class Planes {
 public:
  Planes(const Grid& grid, int64_t count)
      : memory_(count * grid.plane() + 2 * grid.guard()), guard_(grid.guard()), size_(count * grid.plane()) {}
  void clear() { std::fill_n(memory_.data(), memory_.size(), T{0}); }
  T* data() { return memory_.data() + guard_; }
  const T* data() const { return memory_.data() + guard_; }
  int64_t size() const { return size_; }

 private:
  Buffer<T> memory_;
  int64_t guard_;
  int64_t size_;
};

template <typename T>
class ConvIteration final : public Job {
 public:
  ConvIteration(const LinearLayer& layer, const T* v, int64_t iterations, Results<T> results, const Kernels<T>& kernels)
      : layer_(layer),
        start_(v),
        iterations_(iterations),
        results_(results),
        grid_(layer),
        forward_(Product<T>::forward(layer, grid_, kernels)),
        transposed_(Product<T>::transposed(layer, grid_, kernels)),
        input_planes_(grid_.phases() * layer.inputs),
        v_(grid_, input_planes_),
        v_next_(grid_, input_planes_),
        u_(grid_, layer.outputs),
        squares_(std::max(input_planes_, layer.outputs)) {}

  double cost() const override { return layer_.products() * static_cast<double>(2 * iterations_ + 1); }

  int64_t chunks() const override {
    switch (stage_) {
      case Stage::prepare:
        return 1 + forward_.chunks() + transposed_.chunks();
      case Stage::apply:
        return forward_.chunks();
      default:
        return transposed_.chunks();
    }
  }

  void run(int64_t chunk) override {
    switch (stage_) {
      case Stage::prepare:
        return prepare(chunk);
      case Stage::apply:
        return forward_.run(chunk, v_.data(), u_.data(), squares_.data());
      case Stage::transpose:
        return transposed_.run(chunk, u_.data(), v_next_.data(), squares_.data());
    }
  }

  bool advance() override {
    switch (stage_) {
      case Stage::prepare:
        stage_ = Stage::apply;
        return true;
      case Stage::apply:
        return applied();
      default:
        return transposed();
    }
  }

 private:
  enum class Stage { prepare, apply, transpose };

  void prepare(int64_t chunk) {
    if (chunk > forward_.chunks()) return transposed_.pack(layer_.weight, chunk - 1 - forward_.chunks());
    if (chunk > 0) return forward_.pack(layer_.weight, chunk - 1);
    forward_.write_masks(grid_);
    transposed_.write_masks(grid_);
    v_.clear();
    v_next_.clear();
    u_.clear();
    for (int64_t channel = 0; channel < layer_.inputs; ++channel)
      grid_.scatter_input(start_ + channel * layer_.input_pixels(), v_.data() + channel * grid_.plane(), phase_step());
  }

  bool applied() {
    image_norm_ = u_norm_ = norm_of<T>(squares_.data(), layer_.outputs);
    if (iterations_ == 0 || !usable(u_norm_)) return finish();
    if (!comfortable(u_norm_)) {
      multiply(u_.data(), u_.size(), 1 / u_norm_);
      u_norm_ = 1;
    }
    stage_ = Stage::transpose;
    return true;
  }

  bool transposed() {
    const double norm = norm_of<T>(squares_.data(), input_planes_);
    if (!(norm > 0)) return finish();  // 0 or NaN: the iterate stays, and with it u
    std::swap(v_, v_next_);
    v_norm_ = norm;
    if (!comfortable(norm)) {
      multiply(v_.data(), v_.size(), unit_scale(norm));
      v_norm_ = 1;
    }
    --iterations_;
    stage_ = Stage::apply;
    return true;
  }

  bool finish() {
    *results_.sigma = static_cast<T>(estimate(image_norm_, v_norm_));
    for (int64_t channel = 0; channel < layer_.inputs; ++channel)
      grid_.gather_input(v_.data() + channel * grid_.plane(), phase_step(), 1 / v_norm_,
                         results_.v + channel * layer_.input_pixels());
    for (int64_t channel = 0; channel < layer_.outputs; ++channel)
      grid_.gather_output(u_.data() + channel * grid_.plane(), unit_scale(u_norm_),
                          results_.u + channel * layer_.output_pixels());
    return false;
  }

  int64_t phase_step() const { return layer_.inputs * grid_.plane(); }

  const LinearLayer& layer_;
  const T* start_;
  int64_t iterations_;
  Results<T> results_;
  Grid grid_;
  Product<T> forward_;
  Product<T> transposed_;
  int64_t input_planes_;
  Planes<T> v_;
  Planes<T> v_next_;
  Planes<T> u_;
  Buffer<Sum<T>> squares_;
  Stage stage_ = Stage::prepare;
  double image_norm_ = 0;  // ||A v|| of the planes v
  double v_norm_ = 1;      // of the planes as they are: the iterate is the planes divided by it
  double u_norm_ = 1;
};

}  // namespace

template <typename T>
std::unique_ptr<Job> conv_iteration(const LinearLayer& layer, const T* v, int64_t iterations, Results<T> results,
                                    const Kernels<T>& kernels) {
  return std::make_unique<ConvIteration<T>>(layer, v, iterations, results, kernels);
}

template std::unique_ptr<Job> conv_iteration(const LinearLayer&, const float*, int64_t, Results<float>,
                                             const Kernels<float>&);
template std::unique_ptr<Job> conv_iteration(const LinearLayer&, const double*, int64_t, Results<double>,
                                             const Kernels<double>&);

}  // namespace gloro_fast::cpu
