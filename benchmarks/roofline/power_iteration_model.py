"""What the planner's cost model gives beside the times that an H100 has measured of earlier kernels."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.networks import NETWORKS
from gloro_fast.ops import Geometry
from gloro_fast.ops.power_iteration_op import layer_numbers

MEASURED = Path(__file__).with_name("power_iteration_h100.json")
"""Kernel times of commit d72cad3 in microseconds by iterations, and the card."""
GRADIENT_SHARE = 0.13
"""Of forward and gradient, where they were measured together: 0.12 for 2C2F and 0.14 for 4x256, measured apart."""
_STACKS = {"12x64": (12, 64, 16), "4x256": (4, 256, 32), "4x512": (4, 512, 16)}  # layers, channels, side


class Row(NamedTuple):
    """One figure. Times of the forward kernel in microseconds.

    Attributes:
        network: of the paper, or layers x channels of 3 x 3 convolutions.
        multiprocessors: that the plan was held to.
        iterations: T.
        measured: by an H100.
        predicted: by the cost model, of the kernel and plan of today.
    """

    network: str
    multiprocessors: int
    iterations: int
    measured: float
    predicted: float


def numbers_of(network: str) -> list[int]:
    """Return the layers of a measured network as the planner takes them."""
    if network in _STACKS:
        count, channels, side = _STACKS[network]
        geometry = Geometry((channels, side, side), (1, 1), ((1, 1), (1, 1)), (1, 1))
        return layer_numbers([torch.empty(channels, channels, 3, 3)] * count, [geometry] * count)
    maps = NETWORKS[network].linear_maps(torch.device("cpu"))
    return layer_numbers([linear.weight for linear in maps], [linear.geometry for linear in maps])


def rows() -> Iterator[Row]:
    """Yield every figure with the model's."""
    planner = importlib.import_module("gloro_fast._build_info")
    record: dict[str, Any] = json.loads(MEASURED.read_text())
    for figure in record["rows"]:
        network, multiprocessors = figure["network"], figure["multiprocessors"]
        numbers, card = numbers_of(network), (multiprocessors, *record["card"][1:])
        (plan,) = planner.plan_power_iteration(numbers, card)
        share = 1 if figure["times"] == "forward" else 1 - GRADIENT_SHARE
        for iterations, microseconds in figure["microseconds"].items():
            count = int(iterations)
            yield Row(
                network,
                multiprocessors,
                count,
                share * microseconds,
                plan.predict(count, card),
            )


def print_model() -> None:
    """Print a row a figure."""
    print()
    print("The power iteration's forward kernel on an H100, microseconds: measured (commit d72cad3), and what the")
    print("planner's cost model gives of today's: an ESTIMATE, no GPU has run it.")
    print()
    header = ["network", "multiprocessors", "T", "measured", "today's kernel"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows():
        cells = [row.network, str(row.multiprocessors), str(row.iterations)]
        print("| " + " | ".join([*cells, f"{row.measured:.0f}", f"{row.predicted:.0f}"]) + " |")
