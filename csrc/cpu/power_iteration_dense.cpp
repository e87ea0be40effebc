// Power iteration through a dense layer. W^T (W v) takes one pass over the rows of W: the product of a row with v
// is that row's factor in the sum, while the row is still in the cache. A layer of 512 x 4096 (8 MiB) is as dear
// to read as the whole rest of a network of the paper is to compute.
#include <algorithm>
#include <cmath>

#include "power_iteration_buffer.h"
#include "power_iteration_jobs.h"

namespace gloro_fast::cpu {

namespace {

// Rows are cut into at most so many chunks, each with a sum of its own, of at least so many elements.
constexpr int64_t kMostChunks = 16;
constexpr int64_t kElementsPerChunk = 65536;

int64_t rows_per_chunk(const LinearLayer& layer) {
  const int64_t rows =
      std::max((layer.outputs + kMostChunks - 1) / kMostChunks, (kElementsPerChunk + layer.inputs - 1) / layer.inputs);
  return (rows + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
}

// Rows that go through the kernels together.
template <typename T>
int64_t rows_at_once(const LinearLayer& layer) {
  const int64_t row = layer.inputs * static_cast<int64_t>(sizeof(T));
  return kRowsAtOnce * row > kCacheBytes && kRowsInCache * row <= kCacheBytes ? kRowsInCache : kRowsAtOnce;
}

template <typename T>
class DenseIteration final : public Job {
 public:
  DenseIteration(const LinearLayer& layer, const T* v, int64_t iterations, Results<T> results,
                 const Kernels<T>& kernels)
      : layer_(layer),
        kernels_(kernels),
        iterations_(iterations),
        results_(results),
        rows_at_once_(rows_at_once<T>(layer)),
        rows_per_chunk_(rows_per_chunk(layer)),
        chunks_((layer.outputs + rows_per_chunk_ - 1) / rows_per_chunk_),
        v_(v),
        matrix_(in_place() ? static_cast<const T*>(layer.weight.data) : nullptr),
        row_step_(in_place() ? layer.weight.strides[0] : layer.inputs),
        copy_(in_place() ? 0 : layer.outputs * layer.inputs),
        sums_(chunks_ * layer.inputs),
        v_next_{Buffer<T>(layer.inputs), Buffer<T>(layer.inputs)},
        u_(layer.outputs),
        squares_(chunks_),
        preparing_(!in_place()) {}

  double cost() const override {
    // Reading a weight from the third cache costs about as much as ten multiplications of a convolution.
    return 10 * layer_.products() * static_cast<double>(iterations_ + 1);
  }

  int64_t chunks() const override { return chunks_; }

  void run(int64_t position) override {
    // Every other pass runs backwards, so that it begins with the rows that the last one left in the cache.
    const int64_t chunk = backwards_ ? chunks_ - 1 - position : position;
    const int64_t begin = chunk * rows_per_chunk_;
    const int64_t end = std::min(begin + rows_per_chunk_, layer_.outputs);
    if (preparing_) return copy_rows(begin, end);
    T* sums = sums_.data() + chunk * layer_.inputs;
    if (iterations_ > 0) std::fill_n(sums, layer_.inputs, T{0});
    for (int64_t row = begin; row < end; row += rows_at_once_) {
      const int64_t rows = std::min(rows_at_once_, end - row);
      const T* matrix = matrix_ + row * row_step_;
      kernels_.dots(matrix, row_step_, rows, layer_.inputs, v_, u_.data() + row);
      if (iterations_ == 0) continue;
      T factors[kRowsAtOnce];
      for (int64_t i = 0; i < rows; ++i) factors[i] = static_cast<T>(u_.data()[row + i] * scale_);
      kernels_.accumulate(matrix, row_step_, rows, layer_.inputs, factors, sums);
    }
    squares_.data()[chunk] = kernels_.squares(u_.data() + begin, end - begin);
  }

  bool advance() override {
    if (preparing_) {
      matrix_ = copy_.data();
      preparing_ = false;
      return true;
    }
    image_norm_ = norm_of<T>(squares_.data(), chunks_);
    if (iterations_ == 0 || !usable(image_norm_)) return finish();
    if (!comfortable(image_norm_ * scale_)) {
      scale_ = std::ldexp(1.0, -std::ilogb(image_norm_));  // the pass is repeated with this
      return true;
    }
    return next_iterate();
  }

 private:
  bool in_place() const {
    constexpr Element kOwn = sizeof(T) == sizeof(float) ? Element::float32 : Element::float64;
    return layer_.weight.element == kOwn && layer_.weight.strides[1] == 1;
  }

  void copy_rows(int64_t begin, int64_t end) {
    with_elements(layer_.weight, [&](const auto* elements) {
      for (int64_t row = begin; row < end; ++row)
        for (int64_t column = 0; column < layer_.inputs; ++column)
          copy_.data()[row * layer_.inputs + column] =
              convert<T>(elements[row * layer_.weight.strides[0] + column * layer_.weight.strides[1]]);
    });
  }

  bool next_iterate() {
    T* next = (v_ == v_next_[0].data() ? v_next_[1] : v_next_[0]).data();
    std::copy_n(sums_.data(), layer_.inputs, next);
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      const T* sums = sums_.data() + chunk * layer_.inputs;
      for (int64_t i = 0; i < layer_.inputs; ++i) next[i] += sums[i];
    }
    const Sum<T> squares = kernels_.squares(next, layer_.inputs);
    const double norm = norm_of<T>(&squares, 1);
    if (!(norm > 0)) return finish();  // 0 or NaN: the iterate stays, and with it u
    v_ = next;
    v_norm_ = norm;
    if (!comfortable(norm)) {
      multiply(next, layer_.inputs, unit_scale(norm));
      v_norm_ = 1;
    }
    --iterations_;
    backwards_ = !backwards_;
    return true;
  }

  bool finish() {
    *results_.sigma = static_cast<T>(estimate(image_norm_, v_norm_));
    for (int64_t i = 0; i < layer_.inputs; ++i) results_.v[i] = static_cast<T>(v_[i] * (1 / v_norm_));
    const double scale = unit_scale(image_norm_);
    for (int64_t i = 0; i < layer_.outputs; ++i) results_.u[i] = static_cast<T>(u_.data()[i] * scale);
    return false;
  }

  const LinearLayer& layer_;
  const Kernels<T>& kernels_;
  int64_t iterations_;
  Results<T> results_;
  int64_t rows_at_once_;
  int64_t rows_per_chunk_;
  int64_t chunks_;
  const T* v_;
  const T* matrix_;
  int64_t row_step_;
  Buffer<T> copy_;  // of a weight of another type or order
  Buffer<T> sums_;  // one row a chunk
  Buffer<T> v_next_[2];
  Buffer<T> u_;
  Buffer<Sum<T>> squares_;  // of u, one a chunk
  bool preparing_;
  bool backwards_ = false;
  double scale_ = 1;       // a power of two, of u on its way into the sums
  double image_norm_ = 0;  // ||W v||
  double v_norm_ = 1;
};

}  // namespace

template <typename T>
std::unique_ptr<Job> dense_iteration(const LinearLayer& layer, const T* v, int64_t iterations, Results<T> results,
                                     const Kernels<T>& kernels) {
  return std::make_unique<DenseIteration<T>>(layer, v, iterations, results, kernels);
}

template std::unique_ptr<Job> dense_iteration(const LinearLayer&, const float*, int64_t, Results<float>,
                                              const Kernels<float>&);
template std::unique_ptr<Job> dense_iteration(const LinearLayer&, const double*, int64_t, Results<double>,
                                              const Kernels<double>&);

}  // namespace gloro_fast::cpu
