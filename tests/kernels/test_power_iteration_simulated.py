"""The PTX that nvcc makes of the CUDA kernels of power iteration, run in a simulator: values, races, traffic."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from device_checks import assert_agrees, draw
from device_program import Card, Network, Outcome
from power_iteration_layers import Layer, conv, dense
from predicted_traffic import forward_traffic, gradient_traffic
from simulated_gpu import needs_simulator
from simulated_launch import Launch, address

if importlib.util.find_spec("gloro_fast._build_info") is None:
    pytest.skip("the module with the planner was not built: no Python headers", allow_module_level=True)

from gloro_fast import _build_info as planner

pytestmark = needs_simulator

ARRAYS = ("weight", "start", "v", "u", "gradient")


class Simulated:
    """Both launches of a network, with what they moved."""

    def __init__(self, network: Network, iterations: int, card: Card) -> None:
        numbers = network.numbers()
        count = len(network.weights)
        memory = [weight.clone() for weight in network.weights]
        gradients = [torch.full_like(weight, torch.nan) for weight in network.weights]
        shapes = [
            g.apply(torch.zeros_like(w, dtype=torch.float32), v).shape
            for w, v, g in zip(network.weights, network.v, network.geometries, strict=True)
        ]
        v = [torch.full_like(start, torch.nan) for start in network.v]
        u = [torch.full(shape, torch.nan) for shape in shapes]
        sigma, factors = np.full(count, np.nan, np.float32), np.arange(1, count + 1, dtype=np.float32)
        (self.plan,) = planner.plan_power_iteration(numbers, card)
        (self.gradient_plan,) = planner.plan_gradient(numbers, card)
        workspace = np.full(self.plan.workspace_bytes, 0xFF, np.uint8)
        arrays = [sigma, factors, workspace]
        for tensors in zip(memory, network.v, v, u, gradients, strict=True):
            arrays += [_words(tensor) for tensor in tensors]

        def addresses(plan: object, weight: str, sigma_at: int) -> list[list[int]]:
            lists = []
            for layer in plan.order:
                at = {name: address(3 + 5 * layer + i) for i, name in enumerate(ARRAYS)}
                strides = list(memory[layer].stride())
                four = {2: [*strides, 0, 0], 3: [*strides[:2], 0, *strides[2:]], 4: strides}[len(strides)]
                lists.append([at[weight], at["start"], at["v"], at["u"], address(sigma_at) + 4 * layer, *four])
            return lists

        shared = self.plan.shared_bytes
        parameter = self.plan.parameters(iterations, address(2), addresses(self.plan, "weight", 0))
        kernel = "power_iteration_wide_kernel" if self.plan.wide else "power_iteration_kernel"
        self.forward = Launch(kernel, parameter, arrays, self.plan.blocks, planner.THREADS, shared)
        shared = self.gradient_plan.shared_bytes
        parameter = self.gradient_plan.parameters(0, address(2), addresses(self.gradient_plan, "gradient", 1))
        kernel = (
            "power_iteration_wide_gradient_kernel" if self.gradient_plan.wide else "power_iteration_gradient_kernel"
        )
        self.backward = Launch(kernel, parameter, arrays, self.gradient_plan.blocks, planner.THREADS, shared)
        self.outcome = Outcome(torch.from_numpy(sigma), v, u, gradients, b"")


def _words(tensor: torch.Tensor) -> np.ndarray:
    flat = tensor.view(-1)
    return (flat.view(torch.int16) if tensor.itemsize == 2 else flat).numpy()


def moved(launch: Launch) -> int:
    return launch.traffic["load_bytes"] + launch.traffic["store_bytes"]


def test_values_without_a_race() -> None:
    network = draw([conv((6, 5), (9, 10), 3, 2, (1, 0)), dense(20, 72), conv((7,), (4, 6), 3, groups=2)])
    assert_agrees(Simulated(network, 1, Card(3)).outcome, network, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights(dtype: torch.dtype) -> None:
    network = draw([conv((5, 5), (3, 9), 3, padding=(1, 1)), dense(20, 72)], dtype)
    assert_agrees(Simulated(network, 1, Card(2)).outcome, network, 1)


def test_dense_layers_read_each_weight_once_a_product() -> None:
    network = draw([dense(256, 1024)])
    simulated = Simulated(network, 1, Card(2))
    compulsory = 3 * (4 * 256 * 1024 + 4 * (256 + 1024))
    ratio = moved(simulated.forward) / compulsory
    gradient = moved(simulated.backward) / (4 * 256 * 1024 + 4 * (256 + 1024))
    print(f"dense 256 x 1024, T = 1: {ratio:.3f} of the compulsory bytes forward, {gradient:.3f} backward")
    assert ratio <= 1.05
    assert gradient <= 1.05


@pytest.mark.parametrize(
    "layer",
    [conv((16, 16), (16, 24), 3, padding=(1, 1)), conv((13, 12), (8, 16), 4, 2, (1, 1))],
    ids=["3 x 3", "4 x 4 by 2"],
)
def test_convolutions_move_what_their_tiles_say(layer: Layer) -> None:
    network = draw([layer])
    simulated = Simulated(network, 1, Card(3))
    for name, launch, predicted in (
        ("forward", simulated.forward, forward_traffic(layer, *simulated.plan.layers(), 1)),
        ("backward", simulated.backward, gradient_traffic(layer, *simulated.gradient_plan.layers())),
    ):
        print(f"{name}: {moved(launch)} bytes, {predicted:.0f} predicted")
        assert abs(moved(launch) / predicted - 1) <= 0.05
