// Runs the MinMax kernels over many shapes, piece by piece as threads would, against a plain loop. Buffers have
// exactly the size they need, so that AddressSanitizer sees any access beside them. Prints the number of cases.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "../../csrc/cpu/minmax.h"

namespace {

using namespace gloro_fast::cpu;

void require(bool holds, const char* what, const char* type, int64_t samples, int64_t pairs, int64_t length) {
  if (holds) return;
  std::printf("FAILED: %s (%s, %lld samples, %lld pairs, %lld pixels)\n", what, type, static_cast<long long>(samples),
              static_cast<long long>(pairs), static_cast<long long>(length));
  std::exit(1);
}

template <typename T>
bool same(T a, T b) {
  const auto u = widen(a), v = widen(b);
  return (std::isnan(u) && std::isnan(v)) || (u == v && std::signbit(u) == std::signbit(v));
}

// A vector without slack: std::vector may hold more than it was asked for, an array of the heap does not.
template <typename T>
struct Buffer {
  explicit Buffer(int64_t size) : data(new T[static_cast<size_t>(size)]()) {}
  ~Buffer() { delete[] data; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T& operator[](int64_t i) { return data[i]; }
  T* data;
};

template <typename T>
void run(const char* type, int64_t samples, int64_t pairs, int64_t length, bool planar, bool with_bias,
         std::mt19937& random) {
  const int64_t channels = 2 * pairs, pixels = samples * length, size = pixels * channels;
  const auto check = [&](bool holds, const char* what) { require(holds, what, type, samples, pairs, length); };
  const double special[] = {0.0, -0.0, 1.0, INFINITY, -INFINITY, std::numeric_limits<double>::quiet_NaN()};
  std::normal_distribution<double> normal;
  const auto draw = [&] {
    const auto which = random() % 16;
    return narrow<T>(static_cast<decltype(widen(T{}))>(which < 6 ? special[which] : normal(random)));
  };
  Buffer<T> x(size), y(size), bias(channels), grad_y(size), grad_x(size), total(channels);
  for (int64_t i = 0; i < size; ++i) x[i] = draw();
  for (int64_t i = 0; i < channels; ++i) bias[i] = draw();
  for (int64_t i = 0; i < size; ++i) grad_y[i] = narrow<T>(static_cast<decltype(widen(T{}))>(normal(random)));
  const T* shift = with_bias ? bias.data : nullptr;

  const int64_t row_bytes = ceil_div(length, 8), rows = samples * pairs;
  const int64_t pieces = planar ? rows : ceil_div(pixels * pairs, 8);
  Buffer<uint8_t> mask(planar ? rows * row_bytes : pieces);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    if (planar) {
      minmax_planar(x.data, shift, y.data, mask.data, pairs, length, piece, piece + 1);
    } else {
      minmax_interleaved(x.data, shift, y.data, mask.data, pairs, pixels, piece, piece + 1);
    }
  }
  const int64_t chunks = planar ? samples : ceil_div(pixels, kPixelsPerChunk);
  Buffer<Accumulator<T>> sums(with_bias ? chunks * channels : 0);
  Accumulator<T>* partial = with_bias ? sums.data : nullptr;
  for (int64_t piece = 0; piece < (planar ? rows : chunks); ++piece) {
    if (planar) {
      minmax_backward_planar(grad_y.data, mask.data, grad_x.data, partial, length, piece, piece + 1);
    } else {
      minmax_backward_interleaved(grad_y.data, mask.data, grad_x.data, partial, pairs, pixels, piece, piece + 1);
    }
  }
  if (with_bias) {
    for (int64_t c = 0; c < channels; ++c) sum_over_chunks<T>(sums.data, total.data, chunks, channels, c, c + 1);
  }

  std::vector<double> expected_total(static_cast<size_t>(channels)), magnitude(static_cast<size_t>(channels));
  for (int64_t n = 0; n < samples; ++n)
    for (int64_t c = 0; c < pairs; ++c)
      for (int64_t i = 0; i < length; ++i) {
        const int64_t first = planar ? (n * channels + 2 * c) * length + i : (n * length + i) * channels + 2 * c;
        const int64_t second = first + (planar ? length : 1);
        const int64_t bit = planar ? 0 : (n * length + i) * pairs + c;
        const uint8_t byte = planar ? mask[(n * pairs + c) * row_bytes + i / 8] : mask[bit / 8];
        T a = x[first], b = x[second];
        if (with_bias) {
          a = narrow<T>(widen(a) + widen(bias[2 * c]));
          b = narrow<T>(widen(b) + widen(bias[2 * c + 1]));
        }
        const bool nan = std::isnan(widen(a)) || std::isnan(widen(b));
        const bool swap = widen(a) > widen(b);
        check((byte >> (planar ? i : bit) % 8 & 1) == swap, "mask");
        check(nan ? std::isnan(widen(y[first])) : same(y[first], swap ? b : a), "minimum");
        check(nan ? std::isnan(widen(y[second])) : same(y[second], swap ? a : b), "maximum");
        check(same(grad_x[first], swap ? grad_y[second] : grad_y[first]), "gradient of the first");
        check(same(grad_x[second], swap ? grad_y[first] : grad_y[second]), "gradient of the second");
        for (const int64_t place : {first, second}) {
          const auto channel = static_cast<size_t>(2 * c + (place == second));
          expected_total[channel] += widen(grad_x[place]);
          magnitude[channel] += std::fabs(widen(grad_x[place]));
        }
      }
  const double rounding = sizeof(T) == 8 ? 1e-14 : sizeof(T) == 4 ? 1e-6 : 5e-3;
  for (int64_t c = 0; with_bias && c < channels; ++c) {
    const auto i = static_cast<size_t>(c);
    check(std::fabs(widen(total[c]) - expected_total[i]) <= rounding * magnitude[i] + 1e-7, "bias gradient");
  }
}

// Every pattern of the 16-bit formats survives the way to float and back.
template <typename T>
void check_round_trip(const char* type) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const T value{static_cast<uint16_t>(bits)};
    const T back = narrow<T>(widen(value));
    require(std::isnan(widen(value)) ? std::isnan(widen(back)) : back.bits == value.bits, "round trip", type, 0, 0, 0);
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  int cases = 0;
  check_round_trip<Half>("half");
  check_round_trip<BFloat16>("bfloat16");
  for (const int64_t samples : {0, 1, 3})
    for (const int64_t pairs : {0, 1, 3, 9})
      for (const int64_t length : {0, 1, 7, 8, 9, 131, 1030})
        for (const bool planar : {false, true})
          for (const bool with_bias : {false, true}) {
            run<float>("float", samples, pairs, length, planar, with_bias, random);
            run<double>("double", samples, pairs, length, planar, with_bias, random);
            run<Half>("half", samples, pairs, length, planar, with_bias, random);
            run<BFloat16>("bfloat16", samples, pairs, length, planar, with_bias, random);
            cases += 4;
          }
  std::printf("%d cases\n", cases);
  return 0;
}
