// The launches of the batched power iteration, free of torch.
#pragma once

#include "power_iteration_plan.h"
#include "power_iteration_planner.h"

namespace gloro_fast::cuda {

// Reads what the planner needs to know of a device. Returns null, or what the driver complained about.
const char* read_card(int device, Card* card);

// Readies the kernels on the current device, whose properties are `card`: allows them all of a block's shared memory.
// Once for a device, before anything that follows. Returns null, or what the driver complained about.
const char* prepare_power_iteration(const Card& card);

// How many blocks of a plan of the power iteration a multiprocessor of the current device holds at once; 0 where the
// driver does not say.
int resident_blocks(const Plan& plan);

// Launch a plan on `stream` (a cudaStream_t) of the current device, whose layers' pointers have been filled in, or with
// `launch` for its own. Return null, or why the launch failed.
const char* launch_power_iteration(const Plan& plan, const Launch& launch, void* stream);
const char* launch_power_iteration_gradient(const Plan& plan, void* stream);

}  // namespace gloro_fast::cuda
