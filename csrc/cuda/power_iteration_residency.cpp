#include "power_iteration_residency.h"

#include <algorithm>
#include <stdexcept>

namespace gloro_fast::cuda {

namespace {

[[noreturn]] void refuse(const std::string& reason) {
  throw std::runtime_error("power_iteration: " + reason);
}

}  // namespace

std::vector<Plan> fit_power_iteration(const std::vector<cpu::LinearLayer>& layers, Card card, const Driver& driver) {
  if (card.cooperative == 0) refuse("the GPU has no cooperative launch");
  for (;;) {
    std::vector<Plan> plans = plan_power_iteration(layers, card);
    int held = card.blocks_per_multiprocessor;
    for (const Plan& plan : plans) {
      const int resident = driver.resident_blocks(plan);
      if (resident < plan.blocks_per_multiprocessor) held = std::min(held, resident);
    }
    if (held == card.blocks_per_multiprocessor) {
      for (const Plan& plan : plans) {
        const std::string reason = driver.try_launch(plan);
        if (!reason.empty()) refuse("the GPU refuses a cooperative launch: " + reason);
      }
      return plans;
    }
    if (held <= 0) refuse("a multiprocessor of the GPU holds no block of the kernel");
    card.blocks_per_multiprocessor = held;  // less each time round
  }
}

}  // namespace gloro_fast::cuda
