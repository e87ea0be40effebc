"""The bound with its gradient, T = 5: one launch each way and a copy, beside the eager loop over layers."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.networks import NETWORKS, NUM_CLASSES, Network
from gloro_fast import GloRoNet, architectures
from gloro_fast.ops.power_iteration_op import layer_numbers, power_iteration_reference

EAGER_LAUNCH_MICROSECONDS = 5.0
"""Between two small kernels that Python launches one after the other: an assumption."""
ITERATIONS = 5
_LAUNCHES = 3  # forward, backward, the copy of the iterates
_LAUNCH_MICROSECONDS = 5.0


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet, as the planner wants it.

    Attributes:
        name: as it is sold.
        multiprocessors: of them.
        shared: KB of shared memory of a multiprocessor; a block gets 1 KB less.
        capability: compute capability, by which the planner knows the clock.
    """

    name: str
    multiprocessors: int
    shared: int
    capability: tuple[int, int]

    def properties(self) -> tuple[int, ...]:
        """The six numbers that the planner takes."""
        kilo = 1024
        return (self.multiprocessors, self.shared * kilo, (self.shared - 1) * kilo, kilo, *self.capability)


CARDS = (
    Card("RTX 3080", 68, 100, (8, 6)),
    Card("RTX 4090", 128, 100, (8, 9)),
    Card("RTX 5090", 170, 100, (12, 0)),
    Card("A100", 108, 164, (8, 0)),
    Card("H100", 132, 228, (9, 0)),
)


class _Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that are no views: each is at least one launch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 0 if any(returned.alias_info is not None for returned in func._schema.returns) else 1
        return func(*args, **(kwargs or {}))


def eager_launches(network: Network) -> int:
    """Count the operations of the eager loop over layers in one step, its gradient included."""
    weights, v, geometries = _layers(network)
    with _Launches() as launches:
        sigma, _, _ = power_iteration_reference(weights, v, geometries, ITERATIONS)
        torch.autograd.grad(sigma.sum(), weights)
    return int(launches.count)


def planned_microseconds(network: Network, card: Card) -> float:
    """Return the planner's estimate of both kernels, with the launches."""
    planner = importlib.import_module("gloro_fast._build_info")
    weights, _, geometries = _layers(network)
    numbers = layer_numbers(weights, geometries)
    plans = [
        *planner.plan_power_iteration(numbers, card.properties()),
        *planner.plan_gradient(numbers, card.properties()),
    ]
    return sum(float(plan.microseconds) for plan in plans) + _LAUNCHES * _LAUNCH_MICROSECONDS


@cache  # drawing orthogonal weights takes a second, planning their launches milliseconds
def _layers(network: Network) -> tuple[list[torch.Tensor], list[torch.Tensor], list[Any]]:
    module = architectures.build(network.name, input_shape=network.input_shape, num_classes=NUM_CLASSES)
    net = GloRoNet(module, 0.1, network.input_shape)
    maps = net._plan.linear_maps()
    return [linear.weight for linear in maps], net.iterates.vectors(), [linear.geometry for linear in maps]


def print_bound() -> None:
    """Print a row a network, a column a card."""
    print()
    print(
        f"The bound with its gradient, T = {ITERATIONS}: an ESTIMATE from the launch planner's model, in microseconds,"
    )
    print(
        f"with {_LAUNCHES} launches; beside it {EAGER_LAUNCH_MICROSECONDS:.0f} us times the launches of the eager loop."
    )
    print()
    header = ["network", "eager launches", "eager loop", *(card.name for card in CARDS)]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for network in NETWORKS.values():
        count = eager_launches(network)
        times = [f"{planned_microseconds(network, card):.0f}" for card in CARDS]
        print(f"| {network.name} | {count} | {count * EAGER_LAUNCH_MICROSECONDS:.0f} | " + " | ".join(times) + " |")
