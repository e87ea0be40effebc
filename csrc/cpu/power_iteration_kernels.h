// The inner loops of power iteration, one set per instruction set (simd.h). Everything else is plain C++.
//
// Convolutions work on "planes": pictures of one channel laid out flat with zeros between the rows
// (power_iteration_grid.h), so that a tap is one constant offset and a row end needs no special case.
#pragma once

#include <cstdint>

#include "simd.h"

namespace gloro_fast::cpu {

// Bits that keep a value of T (all ones) or clear it (zero).
template <typename T>
struct MaskOf;
template <>
struct MaskOf<float> {
  using type = int32_t;
};
template <>
struct MaskOf<double> {
  using type = int64_t;
};
template <typename T>
using Mask = typename MaskOf<T>::type;

// What squares of T are summed in: no square of a T that is not 0 or infinite becomes 0 or infinite there.
template <typename T>
struct SumOf;
template <>
struct SumOf<float> {
  using type = double;
};
template <>
struct SumOf<double> {
  using type = long double;
};
template <typename T>
using Sum = typename SumOf<T>::type;

// Flat lengths are multiples of this many elements at every level, so that layouts do not depend on the level.
inline constexpr int64_t kFlatMultiple = 16;

// Offsets (taps of one output channel) that one call of `correlate` handles.
inline constexpr int64_t kCorrelateTaps = 8;

// Most rows of a matrix that `dots` and `accumulate` take together: 8 are 20 % faster than 4 or 2 on 512 x 4096, since
// the sums are read and written less often; software prefetching of the next rows gained nothing.
inline constexpr int64_t kRowsAtOnce = 8;
// Half as many where `accumulate` then finds all of them in the first cache, as on 100 x 1568: 20 % faster.
inline constexpr int64_t kRowsInCache = kRowsAtOnce / 2;
inline constexpr int64_t kCacheBytes = 32768;

template <typename T>
struct Kernels {
  // Most rows of one call of `convolve`: 8, 4, 2 or 1 rows, but no more than this.
  int64_t max_rows;

  // out[m * plane + p] = mask[p] & sum over k of weights[k * rows + m] * in[offsets[k] + p], for m in [0, rows) and
  // p in [0, length); each output is one sum over k in ascending order.
  void (*convolve)(int64_t rows, const T* weights, const int64_t* offsets, int64_t taps, const T* in, T* out,
                   int64_t plane, const Mask<T>* mask, int64_t length);

  // tile[j * channels + c] = sum over positions (y, x) of u[(y * width + x) * channels + c] *
  // in[offsets[j] + y * pitch + x], for j in [0, kCorrelateTaps); channels is a multiple of kFlatMultiple.
  void (*correlate)(const T* u, int64_t channels, const T* in, const int64_t* offsets, int64_t height, int64_t width,
                    int64_t pitch, T* tile);

  // u[i] = <row i, v> for `rows` <= kRowsAtOnce rows of `columns` elements, `stride` apart.
  void (*dots)(const T* matrix, int64_t stride, int64_t rows, int64_t columns, const T* v, T* u);

  // sums += sum over i of u[i] * row i, for as many rows.
  void (*accumulate)(const T* matrix, int64_t stride, int64_t rows, int64_t columns, const T* u, T* sums);

  // The sum of squares.
  Sum<T> (*squares)(const T* x, int64_t size);
};

// The kernels for a level; a level that this processor architecture does not have gives the portable ones.
template <typename T>
const Kernels<T>& kernels(Simd level);

namespace avx512 {
template <typename T>
const Kernels<T>& kernels();
}
namespace avx2 {
template <typename T>
const Kernels<T>& kernels();
}
namespace portable {
template <typename T>
const Kernels<T>& kernels();
}

}  // namespace gloro_fast::cpu
