"""One training step: gloro_fast's beside standard training and the eager reference, each in its process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache

import pytest
import torch

from benchmarks import compiled, step_process
from benchmarks.budget import Budget
from benchmarks.candidates import add_if_it_runs
from benchmarks.conftest import Measure
from benchmarks.device_time import DeviceTime
from benchmarks.interleaving import Job, at_once
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, SPEEDUP, Comparison
from benchmarks.step_process import (
    COMPILED,
    EAGER,
    OURS,
    OURS_IN_A_GRAPH,
    STOCK,
    STOCK_IN_A_GRAPH,
    StepProcess,
    choose,
)
from benchmarks.stock import CANDIDATES, PLAIN, Settings

PLAIN_GOALS = {"2C2F": 0.80, "4C3F": 0.85, "6C2F": 1.02}
EAGER_GOALS = {"2C2F": 2.3, "4C3F": 1.9, "6C2F": 1.6}
GRAPH_GOALS = {"2C2F": 1.10, "4C3F": 1.10, "6C2F": 1.05}
FORMATS = [Settings(channels_last, fused=True) for channels_last in (False, True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(name: str, measure: Measure, device: torch.device, quick: bool, budget: Budget) -> None:
    case = NETWORKS[name].case
    chosen = choose(name, device, {STOCK: CANDIDATES, EAGER: FORMATS}, _rounds(quick))
    standard, eager = chosen[STOCK], chosen[EAGER]
    best, eager_best = next(iter(standard)), next(iter(eager))

    with ExitStack() as processes:

        def start(kind: str, settings: Settings | None = None) -> Job:
            return processes.enter_context(StepProcess(name, device, kind, settings))

        contenders: dict[str, Job] = {
            "gloro_fast": start(OURS),
            "stock, best": start(STOCK, best),
            "stock, plain": start(STOCK, PLAIN),
            "eager": start(EAGER, eager_best),
        }
        left_out: dict[str, str] = {}

        def in_a_graph() -> Job:
            return start(STOCK_IN_A_GRAPH, next(iter(stock_in_a_graph(name, device, quick))))

        if device.type == "cuda":
            add_if_it_runs(contenders, left_out, STOCK_IN_A_GRAPH, in_a_graph)
        compiled.add_compiled(contenders, left_out, lambda: start(COMPILED, eager_best), budget=budget)
        measure(
            "training step",
            case,
            contenders,
            [
                Comparison("stock, best", COST, 1.05 if device.type == "cpu" else 0.5),
                Comparison("stock, plain", COST, PLAIN_GOALS[name] if device.type == "cpu" else None),
                Comparison(STOCK_IN_A_GRAPH, COST),
                Comparison("eager", SPEEDUP, EAGER_GOALS[name]),
                Comparison(compiled.NAME, SPEEDUP),
            ],
            described={
                "gloro_fast": "Trainer.step: MinMax, TRADES-KL, T = 5, fused Adam, metrics",
                "stock, best": f"standard ReLU training, cross entropy, {best}",
                "stock, plain": f"standard ReLU training, cross entropy, {PLAIN}",
                STOCK_IN_A_GRAPH: "standard ReLU training as one CUDA graph, in its best settings",
                "eager": f"the same GloRo step in plain PyTorch, {eager_best}",
                compiled.NAME: f"the eager step with its loss compiled, {eager_best}",
            },
            seconds=18,
            settle=settle(device),
            left_out=left_out,
            notes=[
                _candidates(f"{case}, stock's candidates", standard),
                _candidates(f"{case}, formats of the eager step", eager),
            ],
            device_times=device_times(contenders, device),
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_training_step_in_a_graph(name: str, measure: Measure, device: torch.device, quick: bool) -> None:
    if device.type != "cuda":
        pytest.skip("CUDA graphs need a GPU")
    standard = stock_in_a_graph(name, device, quick)
    best = next(iter(standard))
    with (
        StepProcess(name, device, OURS_IN_A_GRAPH) as ours,
        StepProcess(name, device, STOCK_IN_A_GRAPH, best) as theirs,
    ):
        contenders: dict[str, Job] = {"gloro_fast": ours, STOCK_IN_A_GRAPH: theirs}
        measure(
            "training step in a CUDA graph",
            NETWORKS[name].case,
            contenders,
            [Comparison(STOCK_IN_A_GRAPH, COST, GRAPH_GOALS[name])],
            described={
                "gloro_fast": "GraphedStep in a loop of one's own: MinMax, TRADES-KL, T = 5, fused Adam, channels_last",
                STOCK_IN_A_GRAPH: f"standard ReLU training as one CUDA graph, {best}",
            },
            seconds=10,
            notes=[_candidates(f"{NETWORKS[name].case}, stock's candidates in a graph", standard)],
            device_times=device_times(contenders, device),
        )


def settle(device: torch.device) -> Job:
    """What to wait for before a step: the threads of the one before, which a GPU's steps leave idle."""
    return step_process.settle if device.type == "cpu" else at_once


def device_times(contenders: Mapping[str, Job], device: torch.device) -> dict[str, DeviceTime]:
    """Say where the time of the contenders goes on a GPU; nothing on the CPU."""
    processes = {name: job for name, job in contenders.items() if isinstance(job, StepProcess)}
    return {name: process.device_time() for name, process in processes.items()} if device.type == "cuda" else {}


@cache
def stock_in_a_graph(name: str, device: torch.device, quick: bool) -> dict[Settings, float]:
    """Return the median seconds of stock's candidates as graphs, the fastest first."""
    return choose(name, device, {STOCK_IN_A_GRAPH: CANDIDATES}, _rounds(quick))[STOCK_IN_A_GRAPH]


def _rounds(quick: bool) -> int:
    return 3 if quick else 7


def _candidates(what: str, medians: Mapping[Settings, float]) -> str:
    listed = "; ".join(f"{settings} {seconds * 1e3:.1f} ms" for settings, seconds in medians.items())
    return f"{what}, medians of the choosing rounds: {listed}"
