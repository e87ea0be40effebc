// Fits plans to what the driver really holds at once: blocks that wait for each other must all be resident.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "power_iteration_planner.h"

namespace gloro_fast::cuda {

// What is asked of the driver before the first launch. Tests answer in its place.
struct Driver {
  // How many blocks of the plan's kernel, with its shared memory, a multiprocessor holds at once.
  std::function<int(const Plan& plan)> resident_blocks;
  // Launches the plan's blocks, which only wait for each other. Returns why that was refused, or nothing.
  std::function<std::string(const Plan& plan)> try_launch;
};

// Plans the power iteration as plan_power_iteration does, for two blocks a multiprocessor, and folds the plan onto
// fewer where the driver holds fewer. Throws std::runtime_error, with a reason in one line, where a layer does not fit,
// not one block is held, or the GPU or its driver refuses a cooperative launch.
std::vector<Plan> fit_power_iteration(const std::vector<cpu::LinearLayer>& layers, Card card, const Driver& driver);

}  // namespace gloro_fast::cuda
