#include "head_differences.h"

#include <algorithm>
#include <cmath>

namespace gloro_fast::cpu {

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kRowsPerBlock = 16;  // a line of the transposed gradient serves that many rows

template <typename T>
T distance(const T* a, const T* b, int64_t columns) {
  T lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const T difference = a[k + lane] - b[k + lane];
      lanes[lane] += difference * difference;
    }
  }
  double sum = 0;
  for (; k < columns; ++k) {
    const double difference = static_cast<double>(a[k]) - static_cast<double>(b[k]);
    sum += difference * difference;
  }
  for (const T lane : lanes) sum += static_cast<double>(lane);
  return static_cast<T>(std::sqrt(sum));
}

}  // namespace

template <typename T>
void head_differences(const T* weight, int64_t rows, int64_t columns, T* differences, int64_t row_begin,
                      int64_t row_end) {
  for (int64_t i = row_begin; i < row_end; ++i) {
    differences[i * rows + i] = 0;
    for (int64_t j = i + 1; j < rows; ++j) {
      const T d = distance(weight + i * columns, weight + j * columns, columns);
      differences[i * rows + j] = d;
      differences[j * rows + i] = d;
    }
  }
}

template <typename T>
void head_differences_backward(const T* grad, const T* weight, const T* differences, int64_t rows, int64_t columns,
                               T* grad_weight, int64_t row_begin, int64_t row_end) {
  std::fill(grad_weight + row_begin * columns, grad_weight + row_end * columns, T{0});
  for (int64_t block = row_begin; block < row_end; block += kRowsPerBlock) {
    const int64_t block_end = std::min(block + kRowsPerBlock, row_end);
    for (int64_t j = 0; j < rows; ++j) {
      for (int64_t i = block; i < block_end; ++i) {
        const T both = grad[i * rows + j] + grad[j * rows + i];
        const T d = differences[i * rows + j];
        if (both == 0 || d == 0) continue;
        const T scale = both / d;
        T* out = grad_weight + i * columns;
        for (int64_t k = 0; k < columns; ++k) out[k] += scale * (weight[i * columns + k] - weight[j * columns + k]);
      }
    }
  }
}

#define GLORO_FAST_INSTANTIATE(T)                                                   \
  template void head_differences(const T*, int64_t, int64_t, T*, int64_t, int64_t); \
  template void head_differences_backward(const T*, const T*, const T*, int64_t, int64_t, T*, int64_t, int64_t);

GLORO_FAST_INSTANTIATE(float)
GLORO_FAST_INSTANTIATE(double)

#undef GLORO_FAST_INSTANTIATE

}  // namespace gloro_fast::cpu
