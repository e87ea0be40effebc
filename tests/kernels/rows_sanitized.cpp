// Runs the kernels that work on rows of logits, and the hash of bytes, over many shapes, row by row as threads
// would, against plain loops. Buffers have exactly the size they need, so that AddressSanitizer sees any access
// beside them. Prints the number of cases.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "../../csrc/cpu/certify.h"
#include "../../csrc/cpu/fingerprint.h"
#include "../../csrc/cpu/head_differences.h"
#include "../../csrc/cpu/margin.h"
#include "../../csrc/cpu/margin_loss.h"

namespace {

using namespace gloro_fast::cpu;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kEpsilon = 0.3;
constexpr double kLipschitz = 0.7;
constexpr double kLambda = 1.5;

void require(bool holds, const char* what, int64_t rows, int64_t classes) {
  if (holds) return;
  std::printf("FAILED: %s (%lld rows, %lld classes)\n", what, static_cast<long long>(rows),
              static_cast<long long>(classes));
  std::exit(1);
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

bool close(double a, double b, double rounding) {
  return std::fabs(a - b) <= rounding * (1 + std::fabs(b));
}

// What the definition gives for a row without NaN and infinities.
struct Expected {
  int64_t j;
  int64_t runner_up;
  double radius;
  double bottom;
};

template <typename C>
Expected by_definition(const double* f, const C* differences, int64_t classes) {
  Expected row{0, -1, INFINITY, -INFINITY};
  for (int64_t i = 1; i < classes; ++i) {
    if (f[i] > f[row.j]) row.j = i;
  }
  for (int64_t i = 0; i < classes; ++i) {
    if (i == row.j) continue;
    const double slope = kLipschitz * static_cast<double>(differences[row.j * classes + i]);
    row.radius = std::fmin(row.radius, (f[row.j] - f[i]) / slope);
    if (f[i] + kEpsilon * slope > row.bottom) {
      row.bottom = f[i] + kEpsilon * slope;
      row.runner_up = i;
    }
  }
  return row;
}

// The loss of a row with its bottom, straight from the definitions.
double loss_of(const double* f, double bottom, int64_t label, Criterion criterion, int64_t classes) {
  double sum = 0, mean = 0;
  for (int64_t i = 0; i < classes; ++i) sum += std::exp(f[i]);
  for (int64_t i = 0; i < classes; ++i) mean += std::exp(f[i]) / sum * f[i];
  const double lse_bar = std::log(sum + std::exp(bottom));
  if (criterion == Criterion::cross_entropy) return lse_bar - f[label];
  const double robust = criterion == Criterion::trades_kl ? lse_bar - std::log(sum) : lse_bar - mean;
  return std::log(sum) - f[label] + kLambda * robust;
}

template <typename T>
void run_margin(int64_t rows, int64_t classes, bool specials, std::mt19937& random) {
  using C = Wide<T>;
  const auto check = [&](bool holds, const char* what) { require(holds, what, rows, classes); };
  const double rounding = sizeof(C) == 8 ? 1e-12 : 1e-4;
  const double special[] = {0.0, -0.0, 3.0, 3.0, INFINITY, -INFINITY, kNan, 1e30, -1e30};
  std::normal_distribution<double> normal;
  Buffer<T> logits(rows * classes), grad_logits(rows * classes);
  Buffer<C> differences(classes * classes), bottom(rows), radius(rows), loss(rows), share(rows * classes);
  Buffer<C> share_of_bottom(rows), grad(rows), grad_differences(classes * classes), grad_lipschitz(1);
  Buffer<int64_t> prediction(rows), runner_up(rows), labels(rows), prediction_2(rows), runner_up_2(rows);
  Buffer<bool> certified(rows);
  Buffer<double> f(classes);
  for (int64_t i = 0; i < rows * classes; ++i) {
    const bool odd = specials && random() % 8 == 0;
    logits[i] = narrow<T>(static_cast<C>(odd ? special[random() % 9] : normal(random)));
  }
  for (int64_t i = 0; i < classes * classes; ++i) differences[i] = static_cast<C>(1 + std::fabs(normal(random)));
  for (int64_t r = 0; r < rows; ++r) {
    labels[r] = static_cast<int64_t>(random() % static_cast<unsigned>(classes));
    grad[r] = static_cast<C>(normal(random));
  }
  const C lipschitz = static_cast<C>(kLipschitz), epsilon = static_cast<C>(kEpsilon);
  for (const Criterion criterion : {Criterion::cross_entropy, Criterion::trades_kl, Criterion::trades_ce}) {
    for (int64_t r = 0; r < rows; ++r) {
      margin(logits.data, differences.data, lipschitz, epsilon, classes, bottom.data, prediction.data, radius.data,
             runner_up.data, r, r + 1);
      margin_loss(logits.data, differences.data, lipschitz, epsilon, labels.data, criterion, static_cast<C>(kLambda),
                  classes, loss.data, prediction_2.data, certified.data, share.data, share_of_bottom.data,
                  runner_up_2.data, r, r + 1);
      scale_rows(grad.data, share.data, classes, grad_logits.data, r, r + 1);
      for (int64_t i = 0; !specials && i < classes; ++i) {
        const T wanted = narrow<T>(grad[r] * share[r * classes + i]);
        check(widen(grad_logits[r * classes + i]) == widen(wanted), "scaled gradient");
      }
      margin_backward(grad.data, runner_up.data, classes, grad_logits.data, r, r + 1);
    }
    margin_backward_bounds(grad.data, share_of_bottom.data, prediction.data, runner_up.data, differences.data,
                           lipschitz, epsilon, rows, classes, grad_differences.data, grad_lipschitz.data);
    for (int64_t r = 0; r < rows; ++r) {
      check(prediction[r] == prediction_2[r] && runner_up[r] == runner_up_2[r], "the two forms agree");
      check(certified[r] == (radius[r] > epsilon), "certified");
      bool finite = true;
      for (int64_t i = 0; i < classes; ++i) {
        f[i] = static_cast<double>(widen(logits[r * classes + i]));
        finite = finite && std::isfinite(f[i]);
      }
      check(finite || !certified[r], "nothing is certified that is not finite");
      check(!(bottom[r] < widen(logits[r * classes + prediction[r]])) == !certified[r], "bottom signs like the radius");
      if (specials) continue;
      const Expected row = by_definition(f.data, differences.data, classes);
      check(prediction[r] == row.j && runner_up[r] == row.runner_up, "prediction and runner-up");
      check(close(radius[r], row.radius, rounding) && close(bottom[r], row.bottom, rounding), "radius and bottom");
      const double wanted = loss_of(f.data, row.bottom, labels[r], criterion, classes);
      check(close(loss[r], wanted, 10 * rounding), "loss");
      // The derivative along (1, ..., 1): every criterion is blind to what is added to all logits and bottom.
      double total = 0;
      for (int64_t i = 0; i < classes; ++i) total += static_cast<double>(share[r * classes + i]);
      check(std::fabs(total) <= 100 * rounding, "gradient");
    }
  }
}

template <typename T>
void run_certify(int64_t rows, int64_t classes, std::mt19937& random) {
  const auto check = [&](bool holds, const char* what) { require(holds, what, rows, classes); };
  std::normal_distribution<double> normal;
  Buffer<T> logits(rows * classes), bottom(rows);
  Buffer<double> differences(classes * classes), radius(rows), f(classes);
  Buffer<int64_t> prediction(rows);
  for (int64_t i = 0; i < rows * classes; ++i) logits[i] = static_cast<T>(normal(random));
  for (int64_t i = 0; i < classes * classes; ++i) differences[i] = 1 + std::fabs(normal(random));
  if (rows > 2) logits[classes] = static_cast<T>(kNan);
  for (int64_t r = 0; r < rows; ++r) {
    certify(logits.data, differences.data, kLipschitz, kEpsilon, classes, prediction.data, radius.data, bottom.data, r,
            r + 1);
    const T top = logits[r * classes + prediction[r]];
    check((bottom[r] < top) == (radius[r] > kEpsilon), "bottom signs like the radius");
    if (rows > 2 && r == 1) {
      check(prediction[r] == 0 && radius[r] == 0 && std::isinf(bottom[r]), "NaN");
      continue;
    }
    for (int64_t i = 0; i < classes; ++i) f[i] = static_cast<double>(logits[r * classes + i]);
    const Expected row = by_definition(f.data, differences.data, classes);
    // By the definition rounded to nearest; the rounding down of every step is what sets them apart.
    check(prediction[r] == row.j, "prediction");
    check(radius[r] < row.radius && close(radius[r], row.radius, 1e-14), "the radius is rounded down");
  }
}

template <typename T>
void run_head_differences(int64_t rows, int64_t columns, std::mt19937& random) {
  const double rounding = sizeof(T) == 8 ? 1e-12 : 1e-4;
  std::normal_distribution<double> normal;
  Buffer<T> weight(rows * columns), differences(rows * rows), grad(rows * rows), grad_weight(rows * columns);
  for (int64_t i = 0; i < rows * columns; ++i) weight[i] = static_cast<T>(normal(random));
  for (int64_t i = 0; i < rows * rows; ++i) grad[i] = static_cast<T>(random() % 2 == 0 ? 0 : normal(random));
  for (int64_t i = 0; i < rows; ++i) head_differences(weight.data, rows, columns, differences.data, i, i + 1);
  for (int64_t i = 0; i < rows; ++i) {
    head_differences_backward(grad.data, weight.data, differences.data, rows, columns, grad_weight.data, i, i + 1);
    for (int64_t k = 0; k < columns; ++k) {
      double expected = 0;
      for (int64_t j = 0; j < rows; ++j) {
        double square = 0;
        for (int64_t l = 0; l < columns; ++l) square += std::pow(weight[i * columns + l] - weight[j * columns + l], 2);
        require(close(differences[i * rows + j], std::sqrt(square), rounding), "distance", rows, columns);
        const double both = static_cast<double>(grad[i * rows + j]) + static_cast<double>(grad[j * rows + i]);
        if (i != j) expected += both * (weight[i * columns + k] - weight[j * columns + k]) / std::sqrt(square);
      }
      require(close(grad_weight[i * columns + k], expected, 10 * rounding), "gradient of a row", rows, columns);
    }
  }
}

void run_fingerprint(int64_t bytes, int64_t offset, std::mt19937& random) {
  Buffer<uint8_t> memory(bytes + offset);
  for (int64_t i = 0; i < bytes + offset; ++i) memory[i] = static_cast<uint8_t>(random());
  const uint8_t* data = memory.data + offset;
  const int64_t words = (bytes + 7) / 8;
  uint64_t expected = 0;
  for (int64_t i = 0; i < words; ++i) {
    uint64_t x = 0;
    for (int64_t b = 0; b < 8 && 8 * i + b < bytes; ++b) x |= uint64_t{data[8 * i + b]} << 8 * b;
    x += static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15;
    x = (x ^ x >> 32) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 29) * 0x94d049bb133111eb;
    expected += x ^ x >> 32;
  }
  for (const char* level : {"portable", "avx512"}) {
    setenv("GLORO_FAST_SIMD", level, 1);
    for (int64_t cut = 0; cut <= words; cut += 1 + words / 3) {
      const uint64_t sum = fingerprint(data, bytes, 0, cut) + fingerprint(data, bytes, cut, words);
      require(sum == expected, "hash", bytes, offset);
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  int cases = 0;
  for (const int64_t rows : {0, 1, 7})
    for (const int64_t classes : {2, 3, 8, 9, 40}) {
      for (const bool specials : {false, true}) {
        run_margin<float>(rows, classes, specials, random);
        run_margin<double>(rows, classes, specials, random);
        run_margin<Half>(rows, classes, specials, random);
        run_margin<BFloat16>(rows, classes, specials, random);
        cases += 4;
      }
      run_certify<float>(rows, classes, random);
      run_certify<double>(rows, classes, random);
      cases += 2;
    }
  for (const int64_t rows : {1, 2, 18})
    for (const int64_t columns : {1, 16, 35}) {
      run_head_differences<float>(rows, columns, random);
      run_head_differences<double>(rows, columns, random);
      cases += 2;
    }
  for (const int64_t bytes : {0, 1, 7, 8, 9, 63, 64, 65, 500, 5000})
    for (const int64_t offset : {0, 1, 4}) {
      run_fingerprint(bytes, offset, random);
      ++cases;
    }
  std::printf("%d cases\n", cases);
  return 0;
}
