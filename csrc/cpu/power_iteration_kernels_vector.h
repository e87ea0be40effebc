// The inner loops of power iteration in the vector extensions of GCC and Clang. Included once by each of
// power_iteration_kernels_*.cpp, which defines GLORO_FAST_LEVEL (its namespace), GLORO_FAST_VECTOR_BYTES and
// GLORO_FAST_ROWS; nothing here may end up outside that namespace (simd.h says why).
#include <cstddef>
#include <cstdint>

#include "power_iteration_kernels.h"

namespace gloro_fast::cpu::GLORO_FAST_LEVEL {

namespace {

template <typename T>
struct Vectors {
  typedef T Aligned __attribute__((vector_size(GLORO_FAST_VECTOR_BYTES)));
  typedef T Any __attribute__((vector_size(GLORO_FAST_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  typedef Mask<T> Bits __attribute__((vector_size(GLORO_FAST_VECTOR_BYTES)));
  typedef Mask<T> AnyBits __attribute__((vector_size(GLORO_FAST_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = GLORO_FAST_VECTOR_BYTES / static_cast<int>(sizeof(T));
};

template <typename T>
using Vector = typename Vectors<T>::Aligned;

template <typename T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename Vectors<T>::Any*>(from);
}

template <typename T>
inline void store(T* to, Vector<T> value) {
  *reinterpret_cast<typename Vectors<T>::Any*>(to) = value;
}

template <typename T>
inline Vector<T> splat(T value) {
  return value - Vector<T>{};  // -0 stays -0
}

template <typename T>
inline Vector<T> keep(Vector<T> value, const Mask<T>* mask) {
  using Bits = typename Vectors<T>::Bits;
  const Bits bits = *reinterpret_cast<const typename Vectors<T>::AnyBits*>(mask);
  return reinterpret_cast<Vector<T>>(reinterpret_cast<Bits>(value) & bits);
}

// A loop, since GCC clears an array by "= {}" in memory and then keeps it there.
template <typename V, int kRows, int kVectors>
inline void clear(V (&sums)[kRows][kVectors]) {
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < kVectors; ++n) sums[m][n] = V{};
}

// Accumulators in flight: enough to cover the latency of two fused multiply-adds a cycle, and within the
// registers beside the inputs. 8 x 3 of AVX-512's 32 registers, 4 x 3 of the 16 elsewhere.
constexpr int64_t kAccumulators = GLORO_FAST_ROWS * 3;
constexpr int64_t kMostVectors = 6;

constexpr int64_t most_vectors(int64_t rows) {
  return kAccumulators / rows < kMostVectors ? kAccumulators / rows : kMostVectors;
}

template <typename T>
using Tile = void (*)(const T* weights, const int64_t* offsets, int64_t taps, const T* in, T* out, int64_t plane,
                      const Mask<T>* mask);

template <typename T, int kRows, int kVectors>
void tile(const T* weights, const int64_t* offsets, int64_t taps, const T* in, T* out, int64_t plane,
          const Mask<T>* mask) {
  constexpr int kLanes = Vectors<T>::lanes;
  Vector<T> sums[kRows][kVectors];
  clear(sums);
  for (int64_t k = 0; k < taps; ++k) {
    const T* from = in + offsets[k];
    Vector<T> x[kVectors];
    for (int n = 0; n < kVectors; ++n) x[n] = load(from + n * kLanes);
    for (int m = 0; m < kRows; ++m) {
      const Vector<T> weight = splat(weights[k * kRows + m]);
      for (int n = 0; n < kVectors; ++n) sums[m][n] += weight * x[n];
    }
  }
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < kVectors; ++n) store(out + m * plane + n * kLanes, keep<T>(sums[m][n], mask + n * kLanes));
}

template <typename T, int kRows, int kVectors = 1>
Tile<T> find_tile(int64_t vectors) {
  if constexpr (kVectors <= most_vectors(kRows)) {
    return vectors == kVectors ? tile<T, kRows, kVectors> : find_tile<T, kRows, kVectors + 1>(vectors);
  } else {
    return nullptr;
  }
}

template <typename T, int kRows>
void convolve_rows(const T* weights, const int64_t* offsets, int64_t taps, const T* in, T* out, int64_t plane,
                   const Mask<T>* mask, int64_t length) {
  // Tiles of nearly equal width: 4 vectors go as 2 + 2, not as 3 + 1, which would leave a tile short of work.
  int64_t left = length / Vectors<T>::lanes;
  for (int64_t tiles = (left + most_vectors(kRows) - 1) / most_vectors(kRows); tiles > 0; --tiles) {
    const int64_t vectors = (left + tiles - 1) / tiles;
    find_tile<T, kRows>(vectors)(weights, offsets, taps, in, out, plane, mask);
    left -= vectors;
    const int64_t step = vectors * Vectors<T>::lanes;
    in += step;
    out += step;
    mask += step;
  }
}

template <typename T>
void convolve(int64_t rows, const T* weights, const int64_t* offsets, int64_t taps, const T* in, T* out, int64_t plane,
              const Mask<T>* mask, int64_t length) {
  switch (rows) {
#if GLORO_FAST_ROWS >= 8
    case 8:
      return convolve_rows<T, 8>(weights, offsets, taps, in, out, plane, mask, length);
#endif
    case 4:
      return convolve_rows<T, 4>(weights, offsets, taps, in, out, plane, mask, length);
    case 2:
      return convolve_rows<T, 2>(weights, offsets, taps, in, out, plane, mask, length);
    default:
      return convolve_rows<T, 1>(weights, offsets, taps, in, out, plane, mask, length);
  }
}

template <typename T, int kVectors>
void correlate_channels(const T* u, int64_t channels, const T* in, const int64_t* offsets, int64_t height,
                        int64_t width, int64_t pitch, T* tile) {
  constexpr int kLanes = Vectors<T>::lanes;
  constexpr int kTaps = GLORO_FAST_ROWS < kCorrelateTaps ? GLORO_FAST_ROWS : kCorrelateTaps;
  for (int first = 0; first < kCorrelateTaps; first += kTaps) {
    Vector<T> sums[kTaps][kVectors];
    clear(sums);
    const T* from[kTaps];
    for (int j = 0; j < kTaps; ++j) from[j] = in + offsets[first + j];
    const T* at = u;
    for (int64_t y = 0; y < height; ++y)
      for (int64_t p = y * pitch; p < y * pitch + width; ++p) {
        Vector<T> values[kVectors];
        for (int n = 0; n < kVectors; ++n) values[n] = load(at + n * kLanes);
        at += channels;
        for (int j = 0; j < kTaps; ++j) {
          const Vector<T> x = splat(from[j][p]);
          for (int n = 0; n < kVectors; ++n) sums[j][n] += x * values[n];
        }
      }
    for (int j = 0; j < kTaps; ++j)
      for (int n = 0; n < kVectors; ++n) store(tile + (first + j) * channels + n * kLanes, sums[j][n]);
  }
}

template <typename T>
void correlate(const T* u, int64_t channels, const T* in, const int64_t* offsets, int64_t height, int64_t width,
               int64_t pitch, T* tile) {
  constexpr int kLanes = Vectors<T>::lanes;
  int64_t c = 0;
  for (; c + 2 * kLanes <= channels; c += 2 * kLanes)
    correlate_channels<T, 2>(u + c, channels, in, offsets, height, width, pitch, tile + c);
  for (; c < channels; c += kLanes)
    correlate_channels<T, 1>(u + c, channels, in, offsets, height, width, pitch, tile + c);
}

template <typename T>
inline T sum_of_lanes(Vector<T> x) {
  T sum = x[0];
  for (int lane = 1; lane < Vectors<T>::lanes; ++lane) sum += x[lane];
  return sum;
}

template <typename T, int kRows>
void dots_of_rows(const T* matrix, int64_t stride, int64_t columns, const T* v, T* u) {
  constexpr int kLanes = Vectors<T>::lanes;
  constexpr int kVectors = GLORO_FAST_ROWS == 8 ? 2 : 1;  // as the registers allow
  Vector<T> sums[kRows][kVectors];
  clear(sums);
  int64_t j = 0;
  for (; j + kVectors * kLanes <= columns; j += kVectors * kLanes)
    for (int n = 0; n < kVectors; ++n) {
      const Vector<T> x = load(v + j + n * kLanes);
      for (int i = 0; i < kRows; ++i) sums[i][n] += x * load(matrix + i * stride + j + n * kLanes);
    }
  for (int i = 0; i < kRows; ++i) {
    T rest = 0;
    for (int64_t last = j; last < columns; ++last) rest += matrix[i * stride + last] * v[last];
    for (int n = 1; n < kVectors; ++n) sums[i][0] += sums[i][n];
    u[i] = sum_of_lanes<T>(sums[i][0]) + rest;
  }
}

template <typename T>
void dots(const T* matrix, int64_t stride, int64_t rows, int64_t columns, const T* v, T* u) {
  if (rows == kRowsAtOnce) return dots_of_rows<T, kRowsAtOnce>(matrix, stride, columns, v, u);
  if (rows == kRowsInCache) return dots_of_rows<T, kRowsInCache>(matrix, stride, columns, v, u);
  for (int64_t i = 0; i < rows; ++i) dots_of_rows<T, 1>(matrix + i * stride, stride, columns, v, u + i);
}

template <typename T, int kRows>
void accumulate_rows(const T* matrix, int64_t stride, int64_t columns, const T* u, T* sums) {
  constexpr int kLanes = Vectors<T>::lanes;
  Vector<T> factor[kRows];
  for (int i = 0; i < kRows; ++i) factor[i] = splat(u[i]);
  int64_t j = 0;
  for (; j + kLanes <= columns; j += kLanes) {
    Vector<T> sum = load(sums + j);
    for (int i = 0; i < kRows; ++i) sum += factor[i] * load(matrix + i * stride + j);
    store(sums + j, sum);
  }
  for (; j < columns; ++j) {
    T sum = sums[j];
    for (int i = 0; i < kRows; ++i) sum += u[i] * matrix[i * stride + j];
    sums[j] = sum;
  }
}

template <typename T>
void accumulate(const T* matrix, int64_t stride, int64_t rows, int64_t columns, const T* u, T* sums) {
  if (rows == kRowsAtOnce) return accumulate_rows<T, kRowsAtOnce>(matrix, stride, columns, u, sums);
  if (rows == kRowsInCache) return accumulate_rows<T, kRowsInCache>(matrix, stride, columns, u, sums);
  for (int64_t i = 0; i < rows; ++i) accumulate_rows<T, 1>(matrix + i * stride, stride, columns, u + i, sums);
}

template <typename T>
Sum<T> squares(const T* x, int64_t size) {
  constexpr int kParts = 16;
  Sum<T> parts[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= size; i += kParts)
    for (int part = 0; part < kParts; ++part) {
      const Sum<T> value = x[i + part];
      parts[part] += value * value;
    }
  Sum<T> sum = 0;
  for (int part = 0; part < kParts; ++part) sum += parts[part];
  for (; i < size; ++i) sum += Sum<T>{x[i]} * x[i];
  return sum;
}

}  // namespace

template <typename T>
const Kernels<T>& kernels() {
  static constexpr Kernels<T> table{GLORO_FAST_ROWS, convolve<T>, correlate<T>, dots<T>, accumulate<T>, squares<T>};
  return table;
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace gloro_fast::cpu::GLORO_FAST_LEVEL
