"""Memory of a training step: bytes saved for the backward pass, peak of live tensors, growth of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import pytest
import torch
from torch import Tensor, nn

from benchmarks import memory, resident_memory
from benchmarks.conftest import Measure
from benchmarks.eager import EagerStep
from benchmarks.gloro import GloRoStep
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, Comparison, Record
from benchmarks.stock import Settings, StandardStep

# Stock's tensors are as large in every memory format: one of them stands for all.
SETTINGS = Settings(inplace=True, fused=True)
DESCRIBED = {
    "gloro_fast": "Trainer.step: MinMax, TRADES-KL, T = 5",
    "stock": f"standard ReLU training, {SETTINGS}",
    "eager": "the same GloRo step in plain PyTorch",
}
_REPEATS = 3


class _Step(Protocol):
    @property
    def module(self) -> nn.Module: ...

    def __call__(self) -> object: ...

    def resident(self) -> Iterable[Tensor]: ...


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_for_backward(name: str, measure: Measure, device: torch.device) -> None:
    goal = 1 + 1 / 64 + 2 / NETWORKS[name].batch_size + 0.005
    _count("bytes saved for backward", name, goal, measure, device, lambda step: memory.saved_bytes(step, step.module))


@pytest.mark.parametrize("name", NETWORKS)
def test_peak(name: str, measure: Measure, device: torch.device) -> None:
    _count(
        "peak of live tensor bytes",
        name,
        1.03,
        measure,
        device,
        lambda step: memory.peak_bytes(step, step.module, step.resident()),
    )


@pytest.mark.full_only
@pytest.mark.parametrize("name", NETWORKS)
def test_process_growth(name: str, measure: Measure, device: torch.device) -> None:
    if device.type == "cuda":
        pytest.skip("on a GPU the memory of the process is CUDA's own; the peak of live tensor bytes counts")
    if not resident_memory.available():
        pytest.skip("this system does not tell the largest resident set of a process")

    def measuring() -> Record:
        samples: dict[str, list[float]] = {contender: [] for contender in resident_memory.CONTENDERS}
        for _ in range(_REPEATS):
            for contender, values in samples.items():
                values.append(float(resident_memory.grown_bytes(name, contender, device)))
        return Record(
            "process memory above import",
            NETWORKS[name].case,
            "B",
            samples,
            resident_memory.described(),
            [Comparison(contender, COST) for contender in list(samples)[1:]],
        )

    measure.count(measuring)


def _count(
    what: str, name: str, goal: float, measure: Measure, device: torch.device, count: Callable[[_Step], int]
) -> None:
    ours = GloRoStep(NETWORKS[name], device)
    batch = ours.images, ours.labels
    steps: dict[str, _Step] = {
        "gloro_fast": ours,
        "stock": StandardStep(NETWORKS[name], SETTINGS, *batch),
        "eager": EagerStep(NETWORKS[name], SETTINGS, *batch),
    }

    def counting() -> Record:
        samples = {}
        for contender, step in steps.items():
            for _ in range(2):  # the optimizer has its moments from then on
                step()
            samples[contender] = [float(count(step))]
        comparisons = [Comparison("stock", COST, goal), Comparison("eager", COST)]
        return Record(what, NETWORKS[name].case, "B", samples, DESCRIBED, comparisons)

    measure.count(counting)
