// Runs the CUDA kernels of power iteration on the CPU: reads a case from a file, plans it for the card that the case
// names, runs both launches on fibers and writes what they give. device_program.py writes the cases.
#include "power_iteration.cuh"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fibers.h"
#include "power_iteration_description.h"
#include "power_iteration_residency.h"

namespace {

using namespace gloro_fast;

struct File {
  File(const char* name, const char* mode) : handle(std::fopen(name, mode)) {
    if (handle == nullptr) throw std::runtime_error(std::string("cannot open ") + name);
  }
  ~File() { std::fclose(handle); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  template <typename T>
  void read(T* to, size_t count) {
    if (std::fread(to, sizeof(T), count, handle) != count) throw std::runtime_error("the case is cut short");
  }
  int64_t number() {
    int64_t value = 0;
    read(&value, 1);
    return value;
  }
  std::FILE* handle;
};

// Memory of its own for every tensor, so that AddressSanitizer guards its ends; filled with NaN.
template <typename T>
struct Tensor {
  explicit Tensor(int64_t count)
      : size(static_cast<size_t>(count)), data(static_cast<T*>(std::malloc(size * sizeof(T))), std::free) {
    std::memset(data.get(), 0xff, size * sizeof(T));
  }
  size_t size;
  std::unique_ptr<T, void (*)(void*)> data;
};

struct Layer {
  cpu::LinearLayer shape;
  Tensor<char> weight, gradient;
  Tensor<float> start, v, u;
};

int64_t weight_bytes(const cpu::LinearLayer& layer) {
  return layer.outputs * layer.group_inputs() * layer.taps() * (layer.weight.element == cpu::Element::float32 ? 4 : 2);
}

std::vector<Layer> read_layers(File& file) {
  std::vector<int64_t> numbers(static_cast<size_t>(file.number()));
  file.read(numbers.data(), numbers.size());
  std::vector<Layer> layers;
  for (const cpu::Description& description : cpu::read_layers(numbers)) {
    const cpu::LinearLayer& shape = description.layer;
    layers.push_back({shape, Tensor<char>(weight_bytes(shape)), Tensor<char>(weight_bytes(shape)),
                      Tensor<float>(shape.input_size()), Tensor<float>(shape.input_size()),
                      Tensor<float>(shape.output_size())});
    Layer& layer = layers.back();
    file.read(layer.shape.weight.strides, 4);
    file.read(layer.weight.data.get(), layer.weight.size);
    file.read(layer.start.data.get(), layer.start.size);
  }
  return layers;
}

cuda::Card read_card(File& file) {
  cuda::Card card;
  card.cooperative = 1;
  for (int* value : {&card.multiprocessors, &card.shared_bytes, &card.shared_bytes_per_block,
                     &card.reserved_bytes_per_block, &card.major, &card.minor})
    *value = static_cast<int>(file.number());
  card.cores = static_cast<cuda::Cores>(file.number());
  return card;
}

fibers::Shape shape_of(int blocks, int shared_bytes, unsigned schedule) {
  fibers::Shape shape;
  shape.blocks = static_cast<unsigned>(blocks);
  shape.threads = cuda::kThreads;
  shape.shared_bytes = static_cast<size_t>(shared_bytes);
  shape.schedule = schedule;
  return shape;
}

// The card as the driver of `Driver` knows it: what it holds at once, and a trial of the launch.
struct Device {
  cuda::Card card;
  int resident_blocks;  // of a multiprocessor
  unsigned schedule;

  void launch(const cuda::Plan& plan, const cuda::Launch& parameter) const {
    fibers::Shape shape = shape_of(plan.blocks, plan.shared_bytes, schedule);
    shape.cooperative = true;
    shape.resident = static_cast<unsigned>(card.multiprocessors * resident_blocks);
    fibers::launch(shape, [&] {
      plan.wide ? cuda::power_iteration_wide_kernel(parameter) : cuda::power_iteration_kernel(parameter);
    });
  }

  cuda::Driver driver() const {
    return {[this](const cuda::Plan&) { return resident_blocks; },
            [this](const cuda::Plan& plan) -> std::string {
              try {
                launch(plan, cuda::Launch{});
                return "";
              } catch (const std::runtime_error& error) {
                return error.what();
              }
            }};
  }
};

void attach(cuda::Plan& plan, std::vector<Layer>& layers, std::vector<float>& sigma, bool gradient) {
  for (int i = 0; i < plan.launch.layers; ++i) {
    const auto index = static_cast<size_t>(plan.order[static_cast<size_t>(i)]);
    Layer& layer = layers[index];
    cuda::LayerPlan& planned = plan.launch.layer[i];
    planned.weight = gradient ? layer.gradient.data.get() : layer.weight.data.get();
    planned.start = layer.start.data.get();
    planned.v = layer.v.data.get();
    planned.u = layer.u.data.get();
    planned.sigma = &sigma[index];
    for (int d = 0; d < 4; ++d) planned.weight_strides[d] = static_cast<int32_t>(layer.shape.weight.strides[d]);
  }
}

void run(const char* input, const char* output) {
  File file(input, "rb");
  std::vector<Layer> layers = read_layers(file);
  const int64_t iterations = file.number();
  const cuda::Card card = read_card(file);
  const auto schedule = static_cast<unsigned>(file.number());
  const Device device{card, static_cast<int>(file.number()), schedule};
  std::vector<cpu::LinearLayer> shapes;
  for (const Layer& layer : layers) shapes.push_back(layer.shape);

  std::vector<float> sigma(layers.size()), factors(layers.size());
  for (size_t i = 0; i < factors.size(); ++i) factors[i] = static_cast<float>(i + 1);
  for (cuda::Plan& plan : cuda::fit_power_iteration(shapes, card, device.driver())) {
    attach(plan, layers, sigma, false);
    plan.launch.iterations = static_cast<int32_t>(iterations);
    const Tensor<char> workspace(plan.workspace_bytes);
    cuda::place_workspace(plan, workspace.data.get());
    device.launch(plan, plan.launch);
  }
  for (cuda::Plan& plan : cuda::plan_gradient(shapes, card)) {
    attach(plan, layers, factors, true);
    fibers::Shape shape = shape_of(plan.blocks, plan.shared_bytes, schedule);
    shape.resident = 4;
    fibers::launch(shape, [&] {
      plan.wide ? cuda::power_iteration_wide_gradient_kernel(plan.launch)
                : cuda::power_iteration_gradient_kernel(plan.launch);
    });
  }

  const File result(output, "wb");
  const auto write = [&](const auto* data, size_t count) {
    if (std::fwrite(data, sizeof *data, count, result.handle) != count) throw std::runtime_error("cannot write");
  };
  write(sigma.data(), sigma.size());
  for (const Layer& layer : layers) {
    write(layer.v.data.get(), layer.v.size);
    write(layer.u.data.get(), layer.u.size);
    write(layer.gradient.data.get(), layer.gradient.size);
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    for (int i = 1; i + 1 < count; i += 2) run(arguments[i], arguments[i + 1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
  return 0;
}
