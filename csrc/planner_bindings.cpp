// The launch planner of the batched power iteration for Python: tests and estimates ask it about cards that are not
// there. The ops call it from C++.
#include "planner_bindings.h"

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "common/power_iteration_description.h"
#include "cuda/power_iteration_planner.h"
#include "cuda/power_iteration_residency.h"

namespace gloro_fast {

namespace {

namespace py = pybind11;
using cuda::Plan;

std::vector<cpu::LinearLayer> read(const std::vector<int64_t>& numbers) {
  std::vector<cpu::LinearLayer> layers;
  for (const cpu::Description& description : cpu::read_layers(numbers)) layers.push_back(description.layer);
  return layers;
}

// Six properties, and where tests want it a seventh number for the cores.
cuda::Card read_card(const std::vector<int>& numbers) {
  if (numbers.size() != 6 && numbers.size() != 7) throw py::value_error("a card has 6 or 7 numbers");
  cuda::Card card;
  if (numbers.size() == 7) card.cores = static_cast<cuda::Cores>(numbers[6]);
  card.multiprocessors = numbers[0];
  card.shared_bytes = numbers[1];
  card.shared_bytes_per_block = numbers[2];
  card.reserved_bytes_per_block = numbers[3];
  card.cooperative = 1;
  card.major = numbers[4];
  card.minor = numbers[5];
  return card;
}

py::dict describe(const cuda::Tiling& tiling) {
  using namespace py::literals;
  return py::dict("items"_a = tiling.items, "channel_tiles"_a = tiling.channel_tiles,
                  "entry_tiles"_a = tiling.entry_tiles,
                  "tile"_a = py::make_tuple(tiling.tile_height, tiling.tile_width),
                  "tiles"_a = py::make_tuple(tiling.tiles_y, tiling.tiles_x),
                  "channels"_a = cuda::kThreadChannels << tiling.log_channel_lanes, "split"_a = 1 << tiling.log_split,
                  "pixels"_a = tiling.thread_pixels, "window_lanes"_a = 1 << tiling.log_window_lanes,
                  "chunk"_a = tiling.chunk, "step_taps"_a = tiling.step_taps, "stages"_a = tiling.stages,
                  "windows"_a = tiling.windows, "resident"_a = tiling.resident != 0);
}

py::list describe_layers(const Plan& plan) {
  using namespace py::literals;
  py::list layers;
  for (int i = 0; i < plan.launch.layers; ++i) {
    const cuda::LayerPlan& layer = plan.launch.layer[i];
    layers.append(py::dict("layer"_a = plan.order[static_cast<size_t>(i)], "first_block"_a = layer.first_block,
                           "blocks"_a = layer.blocks, "dense"_a = layer.dense != 0, "wide"_a = layer.wide != 0,
                           "forward"_a = describe(layer.forward), "transposed"_a = describe(layer.transposed)));
  }
  return layers;
}

// The bytes of the kernel's parameter: addresses of weight, start, v, u and sigma and the weight's four strides for
// each layer, in the plan's order.
py::bytes parameters(Plan plan, int iterations, uintptr_t workspace,
                     const std::vector<std::array<uintptr_t, 9>>& addresses) {
  plan.launch.iterations = iterations;
  cuda::place_workspace(plan, reinterpret_cast<char*>(workspace));
  for (size_t i = 0; i < addresses.size(); ++i) {
    cuda::LayerPlan& layer = plan.launch.layer[i];
    layer.weight = reinterpret_cast<void*>(addresses[i][0]);
    layer.start = reinterpret_cast<const float*>(addresses[i][1]);
    layer.v = reinterpret_cast<float*>(addresses[i][2]);
    layer.u = reinterpret_cast<float*>(addresses[i][3]);
    layer.sigma = reinterpret_cast<float*>(addresses[i][4]);
    for (size_t d = 0; d < 4; ++d) layer.weight_strides[d] = static_cast<int32_t>(addresses[i][5 + d]);
  }
  return py::bytes(reinterpret_cast<const char*>(&plan.launch), sizeof plan.launch);
}

}  // namespace

void bind_planner(py::module_& module) {
  py::class_<Plan>(module, "Plan", "A launch of the batched power iteration, or of its gradient.")
      .def_readonly("blocks", &Plan::blocks)
      .def_readonly("shared_bytes", &Plan::shared_bytes)
      .def_readonly("wide", &Plan::wide)
      .def_readonly("blocks_per_multiprocessor", &Plan::blocks_per_multiprocessor)
      .def_readonly("workspace_bytes", &Plan::workspace_bytes)
      .def_readonly("microseconds", &Plan::microseconds)
      .def_readonly("order", &Plan::order)
      .def("predict",
           [](const Plan& plan, int iterations, const std::vector<int>& card) {
             return cuda::predict_microseconds(plan, iterations, read_card(card));
           })
      .def("layers", &describe_layers)
      .def("parameters", &parameters);
  module.attr("THREADS") = cuda::kThreads;
  module.attr("BLOCKS_PER_MULTIPROCESSOR") = cuda::kBlocksPerMultiprocessor;
  module.attr("MOST_LAYERS") = cuda::kMostLayers;
  module.def("plan_power_iteration", [](const std::vector<int64_t>& numbers, const std::vector<int>& card) {
    return cuda::plan_power_iteration(read(numbers), read_card(card));
  });
  module.def("enough_multiprocessors", [](const std::vector<int64_t>& numbers, const std::vector<int>& card) {
    return cuda::enough_multiprocessors(read(numbers), read_card(card));
  });
  // The driver's answers are functions: blocks a multiprocessor by shared bytes, and why blocks and shared bytes are
  // refused.
  module.def(
      "fit_power_iteration",
      [](const std::vector<int64_t>& numbers, const std::vector<int>& properties,
         const std::function<int(int)>& resident_blocks, const std::function<std::string(int, int)>& try_launch,
         bool cooperative, int64_t multiprocessors) {
        cuda::Card card = read_card(properties);
        card.cooperative = cooperative;
        return cuda::fit_power_iteration(read(numbers), cuda::share_of(card, multiprocessors),
                                         {[&](const Plan& p) { return resident_blocks(p.shared_bytes); },
                                          [&](const Plan& p) { return try_launch(p.blocks, p.shared_bytes); }});
      },
      py::arg("numbers"), py::arg("card"), py::arg("resident_blocks"), py::arg("try_launch"),
      py::arg("cooperative") = true, py::arg("multiprocessors") = 0);
  module.def("plan_gradient", [](const std::vector<int64_t>& numbers, const std::vector<int>& card) {
    return cuda::plan_gradient(read(numbers), read_card(card));
  });
}

}  // namespace gloro_fast
