// Runs the MinMax kernels of every instruction set that this processor has over many shapes, piece by piece as
// threads would, against a plain loop, and against each other bit by bit. Prints the number of cases a set.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "../../csrc/cpu/minmax.h"
#include "guarded.h"

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

template <typename T>
T converted(double value) {
  return narrow<T>(static_cast<decltype(widen(T{}))>(value));
}

struct Shape {
  int64_t samples, pairs, length;
  bool planar, with_bias;
  int64_t channels() const { return 2 * pairs; }
  int64_t pixels() const { return samples * length; }
  int64_t size() const { return pixels() * channels(); }
  int64_t rows() const { return samples * pairs; }
  int64_t row_bytes() const { return ceil_div(length, 8); }
  int64_t mask_bytes() const { return planar ? rows() * row_bytes() : ceil_div(pixels() * pairs, 8); }
};

// What the kernels of one instruction set make of one input.
template <typename T>
struct Result {
  explicit Result(const Shape& s)
      : y(s.size()), grad_x(s.size()), total(s.with_bias ? s.channels() : 0), mask(s.mask_bytes()) {}
  Guarded<T> y, grad_x, total;
  Guarded<uint8_t> mask;
};

template <typename T>
void run(Simd level, const Shape& s, bool stream, bool in_place, const T* x, const T* bias, const T* grad_y,
         Result<T>& result) {
  const MinmaxKernels<T>& kernels = minmax_kernels<T>(level);
  const int64_t blocks = ceil_div(s.pixels() * s.pairs, kPairsPerBlock);
  if (in_place && s.size() > 0) std::memcpy(static_cast<void*>(result.y.data), x, sizeof(T) * s.size());
  const T* from = in_place ? result.y.data : x;
  const auto forward = [&](int64_t begin, int64_t end) {
    if (s.planar) {
      kernels.planar(from, bias, result.y.data, result.mask.data, s.pairs, s.length, begin, end, stream);
    } else {
      kernels.interleaved(from, bias, result.y.data, result.mask.data, s.pairs, s.pixels(), begin, end, stream);
    }
  };
  const int64_t pieces = s.planar ? s.rows() : blocks, cut = pieces / 3;
  forward(0, cut);
  forward(cut, pieces);

  const int64_t chunks = s.planar ? s.samples : ceil_div(s.pixels(), kPixelsPerChunk);
  Guarded<Accumulator<T>> sums(s.with_bias ? chunks * s.channels() : 0);
  Accumulator<T>* partial = s.with_bias ? sums.data : nullptr;
  for (int64_t piece = 0; piece < (s.planar ? s.rows() : chunks); ++piece) {
    if (s.planar) {
      kernels.backward_planar(grad_y, result.mask.data, result.grad_x.data, partial, s.length, piece, piece + 1,
                              stream);
    } else {
      kernels.backward_interleaved(grad_y, result.mask.data, result.grad_x.data, partial, s.pairs, s.pixels(), piece,
                                   piece + 1, stream);
    }
  }
  if (s.with_bias) {
    for (int64_t c = 0; c < s.channels(); ++c) {
      sum_over_chunks<T>(sums.data, result.total.data, chunks, s.channels(), c, c + 1);
    }
  }
}

template <typename T>
void check_against_loop(const char* type, const Shape& s, const T* x, const T* bias, const T* grad_y,
                        const Result<T>& result) {
  const auto check = [&](bool holds, const char* what) { require(holds, what, type, s.samples, s.pairs, s.length); };
  std::vector<double> expected_total(s.channels()), magnitude(s.channels());
  for (int64_t n = 0; n < s.samples; ++n)
    for (int64_t c = 0; c < s.pairs; ++c)
      for (int64_t i = 0; i < s.length; ++i) {
        const int64_t pixel = n * s.length + i;
        const int64_t first = s.planar ? (n * s.channels() + 2 * c) * s.length + i : pixel * s.channels() + 2 * c;
        const int64_t second = first + (s.planar ? s.length : 1);
        const int64_t bit = s.planar ? i : pixel * s.pairs + c;
        const uint8_t byte = result.mask.data[bit / 8 + (s.planar ? (n * s.pairs + c) * s.row_bytes() : 0)];
        T a = x[first], b = x[second];
        if (bias != nullptr) {
          a = narrow<T>(widen(a) + widen(bias[2 * c]));
          b = narrow<T>(widen(b) + widen(bias[2 * c + 1]));
        }
        const bool nan = std::isnan(widen(a)) || std::isnan(widen(b));
        const bool swap = widen(a) > widen(b);
        check((byte >> bit % 8 & 1) == swap, "mask");
        check(nan ? std::isnan(widen(result.y.data[first])) : same(result.y.data[first], swap ? b : a), "minimum");
        check(nan ? std::isnan(widen(result.y.data[second])) : same(result.y.data[second], swap ? a : b), "maximum");
        check(same(result.grad_x.data[first], swap ? grad_y[second] : grad_y[first]), "gradient of the first");
        check(same(result.grad_x.data[second], swap ? grad_y[first] : grad_y[second]), "gradient of the second");
        for (const int64_t place : {first, second}) {
          const int64_t channel = 2 * c + (place == second);
          expected_total[channel] += widen(result.grad_x.data[place]);
          magnitude[channel] += std::fabs(widen(result.grad_x.data[place]));
        }
      }
  const double rounding = sizeof(T) == 8 ? 1e-14 : sizeof(T) == 4 ? 1e-6 : 5e-3;
  for (int64_t c = 0; s.with_bias && c < s.channels(); ++c) {
    const double error = std::fabs(widen(result.total.data[c]) - expected_total[c]);
    check(error <= rounding * magnitude[c] + 1e-7, "bias gradient");
  }
}

template <typename T>
bool same_bits(const Guarded<T>& a, const Guarded<T>& b) {
  return a.size == 0 || std::memcmp(a.data, b.data, sizeof(T) * a.size) == 0;
}

template <typename T>
int run_all(const char* type, const Shape& s, const std::vector<Simd>& levels, std::mt19937& random) {
  const double special[] = {0.0, -0.0, 1.0, INFINITY, -INFINITY, std::numeric_limits<double>::quiet_NaN()};
  std::normal_distribution<double> normal;
  const auto draw = [&] {
    const auto which = random() % 16;
    return converted<T>(which < 6 ? special[which] : normal(random));
  };
  Guarded<T> x(s.size()), bias(s.with_bias ? s.channels() : 0), grad_y(s.size());
  for (int64_t i = 0; i < x.size; ++i) x.data[i] = draw();
  for (int64_t i = 0; i < bias.size; ++i) bias.data[i] = draw();
  for (int64_t i = 0; i < grad_y.size; ++i) grad_y.data[i] = converted<T>(normal(random));
  const T* shift = s.with_bias ? bias.data : nullptr;

  Result<T> expected(s);
  run(Simd::portable, s, false, false, x.data, shift, grad_y.data, expected);
  check_against_loop(type, s, x.data, shift, grad_y.data, expected);
  int cases = 1;
  for (const Simd level : levels) {
    for (const auto& [stream, in_place] : {std::pair{false, false}, {false, true}, {true, false}}) {
      Result<T> result(s);
      run(level, s, stream, in_place, x.data, shift, grad_y.data, result);
      const bool same = same_bits(result.y, expected.y) && same_bits(result.mask, expected.mask) &&
                        same_bits(result.grad_x, expected.grad_x) && same_bits(result.total, expected.total);
      require(same,
              level == Simd::avx512 ? "avx512"
              : level == Simd::avx2 ? "avx2"
                                    : "portable",
              type, s.samples, s.pairs, s.length);
      ++cases;
    }
  }
  return cases;
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
  std::vector<Simd> levels;
  for (const Simd level : {Simd::portable, Simd::avx2, Simd::avx512}) {
    if (level <= simd_level()) levels.push_back(level);
  }
  std::mt19937 random(1);
  int cases = 0;
  check_round_trip<Half>("half");
  check_round_trip<BFloat16>("bfloat16");
  for (const int64_t samples : {0, 1, 3})
    for (const int64_t pairs : {0, 1, 3, 9, 16, 40})
      for (const int64_t length : {0, 1, 7, 8, 9, 49, 64, 131, 259, 2060})
        for (const bool planar : {false, true})
          for (const bool with_bias : {false, true}) {
            if (samples * pairs * length > 20000) continue;  // slow under the sanitizers
            const Shape shape{samples, pairs, length, planar, with_bias};
            cases += run_all<float>("float", shape, levels, random);
            cases += run_all<double>("double", shape, levels, random);
            cases += run_all<Half>("half", shape, levels, random);
            cases += run_all<BFloat16>("bfloat16", shape, levels, random);
          }
  std::printf("%d levels, %d cases\n", static_cast<int>(levels.size()), cases);
  return 0;
}
