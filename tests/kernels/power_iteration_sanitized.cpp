// Runs power iteration and its gradient over many layers at once, by one thread and by three, at every level that
// the machine has, against plain loops in double. The caller's buffers have exactly the size they need, so that
// AddressSanitizer sees any access beside them. Prints the number of cases.
#include "../../csrc/cpu/power_iteration.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace {

using namespace gloro_fast::cpu;

constexpr int64_t kIterations = 2;

void require(bool holds, const char* what, size_t layer, int level) {
  if (holds) return;
  std::printf("FAILED: %s (layer %zu, level %d)\n", what, layer, level);
  std::exit(1);
}

// Exactly as large as asked for; a std::vector may hold more.
template <typename T>
struct Exact {
  explicit Exact(int64_t n) : size(n), data(new T[static_cast<size_t>(n)]()) {}
  int64_t size;
  std::unique_ptr<T[]> data;
};

Axis axis(int64_t input, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation) {
  Axis made{input, 1, kernel, stride, dilation, before};
  made.output = (input + before + after - dilation * (kernel - 1) - 1) / stride + 1;
  return made;
}

std::vector<LinearLayer> make_layers() {
  std::vector<LinearLayer> layers;
  for (const int64_t size : {1, 5, 18})
    for (const int64_t kernel : {1, 3})
      for (const int64_t stride : {1, 3})
        for (const int64_t dilation : {1, 2})
          for (const int64_t groups : {1, 3}) {
            LinearLayer layer;
            layer.dense = false;
            layer.inputs = groups * 2;
            layer.outputs = groups * 5;
            layer.groups = groups;
            layer.height = axis(size, kernel, stride, 2, 2, dilation);
            layer.width = axis(size + 2, kernel, stride, 2, 3, dilation);
            layers.push_back(layer);
          }
  for (const int64_t outputs : {1, 9, 70})
    for (const int64_t inputs : {1, 33, 1000}) {
      LinearLayer layer;
      layer.outputs = outputs;
      layer.inputs = inputs;
      layers.push_back(layer);
    }
  return layers;
}

// Calls function(output, input, weight) with the flat indices of every product of the layer.
template <typename Function>
void for_every_product(const LinearLayer& layer, const Function& function) {
  const Axis &h = layer.height, &w = layer.width;
  for (int64_t o = 0; o < layer.outputs; ++o)
    for (int64_t c = 0; c < layer.group_inputs(); ++c)
      for (int64_t a = 0; a < h.kernel; ++a)
        for (int64_t b = 0; b < w.kernel; ++b)
          for (int64_t y = 0; y < h.output; ++y)
            for (int64_t x = 0; x < w.output; ++x) {
              const int64_t channel = o / layer.group_outputs() * layer.group_inputs() + c;
              const int64_t row = y * h.stride + a * h.dilation - h.padding;
              const int64_t column = x * w.stride + b * w.dilation - w.padding;
              if (row < 0 || row >= h.input || column < 0 || column >= w.input) continue;
              function((o * h.output + y) * w.output + x, (channel * h.input + row) * w.input + column,
                       ((o * layer.group_inputs() + c) * h.kernel + a) * w.kernel + b);
            }
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

void divide(std::vector<double>& x, double by) {
  for (double& value : x) value = by > 0 ? value / by : value;
}

void work(Schedule schedule, int threads) {
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back([&] { schedule.work(); });
  schedule.work();
  for (std::thread& other : others) other.join();
}

template <typename T>
struct Outcome {
  std::vector<T> sigma, v, u;
  std::vector<std::vector<T>> gradients;
};

template <typename T>
Outcome<T> run(std::vector<LinearLayer> layers, const std::vector<Exact<T>>& weights,
               const std::vector<Exact<T>>& starts, Simd level, int threads) {
  std::vector<Exact<T>> v, u;
  std::vector<Iterates<T>> iterates;
  for (size_t i = 0; i < layers.size(); ++i) {
    LinearLayer& layer = layers[i];
    const int64_t taps = layer.taps();
    const Element element = sizeof(T) == 4 ? Element::float32 : Element::float64;
    layer.weight = {weights[i].data.get(), element, {layer.group_inputs() * taps, taps, layer.width.kernel, 1}};
    v.emplace_back(layer.input_size());
    u.emplace_back(layer.output_size());
    iterates.push_back({starts[i].data.get(), v[i].data.get(), u[i].data.get()});
  }
  Exact<T> sigma(static_cast<int64_t>(layers.size()));
  work(power_iteration<T>(layers, iterates, kIterations, level, sigma.data.get()), threads);
  std::vector<Exact<T>> gradients;
  for (size_t i = 0; i < layers.size(); ++i) {
    gradients.emplace_back(weights[i].size);
    layers[i].weight.data = gradients[i].data.get();
  }
  work(power_iteration_gradient<T>(layers, sigma.data.get(), iterates, level), threads);
  Outcome<T> outcome;
  for (size_t i = 0; i < layers.size(); ++i) {
    outcome.v.insert(outcome.v.end(), v[i].data.get(), v[i].data.get() + v[i].size);
    outcome.u.insert(outcome.u.end(), u[i].data.get(), u[i].data.get() + u[i].size);
    outcome.gradients.emplace_back(gradients[i].data.get(), gradients[i].data.get() + gradients[i].size);
  }
  outcome.sigma.assign(sigma.data.get(), sigma.data.get() + sigma.size);
  return outcome;
}

template <typename T>
void check(const LinearLayer& layer, const Exact<T>& weight, const Exact<T>& start, const Outcome<T>& got, size_t index,
           int64_t& inputs, int64_t& outputs, int level) {
  const double tolerance = sizeof(T) == 4 ? 1e-4 : 1e-9;
  std::vector<double> v(start.data.get(), start.data.get() + start.size);
  std::vector<double> u(static_cast<size_t>(layer.output_size()));
  const auto apply = [&] {
    std::fill(u.begin(), u.end(), 0);
    for_every_product(layer, [&](int64_t o, int64_t i, int64_t k) {
      u[static_cast<size_t>(o)] += weight.data[static_cast<size_t>(k)] * v[static_cast<size_t>(i)];
    });
    const double sigma = norm(u);
    divide(u, sigma);
    return sigma;
  };
  for (int64_t t = 0; t < kIterations; ++t) {
    if (apply() == 0) break;
    std::fill(v.begin(), v.end(), 0);
    for_every_product(layer, [&](int64_t o, int64_t i, int64_t k) {
      v[static_cast<size_t>(i)] += weight.data[static_cast<size_t>(k)] * u[static_cast<size_t>(o)];
    });
    divide(v, norm(v));
  }
  const double sigma = apply();
  const auto near = [&](double a, double b) { return std::fabs(a - b) <= tolerance * (1 + std::fabs(b)); };
  require(near(got.sigma[index], sigma), "sigma", index, level);
  for (const double value : v) require(near(got.v[static_cast<size_t>(inputs++)], value), "v", index, level);
  for (const double value : u) require(near(got.u[static_cast<size_t>(outputs++)], value), "u", index, level);
  std::vector<double> gradient(static_cast<size_t>(weight.size));
  for_every_product(layer, [&](int64_t o, int64_t i, int64_t k) {
    gradient[static_cast<size_t>(k)] += sigma * u[static_cast<size_t>(o)] * v[static_cast<size_t>(i)];
  });
  for (size_t k = 0; k < gradient.size(); ++k)
    require(near(got.gradients[index][k], gradient[k]), "gradient", index, level);
}

template <typename T>
int run_all(Simd level) {
  const std::vector<LinearLayer> layers = make_layers();
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  const auto draw = [&](int64_t size) {
    Exact<T> values(size);
    for (int64_t i = 0; i < size; ++i) values.data[static_cast<size_t>(i)] = static_cast<T>(normal(random));
    return values;
  };
  std::vector<Exact<T>> weights, starts;
  for (const LinearLayer& layer : layers) {
    weights.push_back(draw(layer.outputs * layer.group_inputs() * layer.taps()));
    starts.push_back(draw(layer.input_size()));
  }
  const Outcome<T> alone = run(layers, weights, starts, level, 1);
  const Outcome<T> together = run(layers, weights, starts, level, 3);
  int64_t inputs = 0, outputs = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    check(layers[i], weights[i], starts[i], alone, i, inputs, outputs, static_cast<int>(level));
    require(alone.gradients[i] == together.gradients[i], "gradient by three threads", i, static_cast<int>(level));
  }
  require(alone.sigma == together.sigma && alone.v == together.v && alone.u == together.u, "three threads", 0,
          static_cast<int>(level));
  return static_cast<int>(layers.size());
}

}  // namespace

int main() {
  int cases = 0;
  for (const Simd level : {Simd::portable, Simd::avx2, Simd::avx512}) {
    if (level > simd_level()) continue;
    cases += run_all<float>(level) + run_all<double>(level);
  }
  std::printf("%d cases\n", cases);
  return 0;
}
