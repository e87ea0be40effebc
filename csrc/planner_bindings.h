#pragma once

#include <pybind11/pybind11.h>

namespace gloro_fast {

// Adds the launch planner of the batched power iteration to a module.
void bind_planner(pybind11::module_& module);

}  // namespace gloro_fast
