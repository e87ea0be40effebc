"""One training step: gloro_fast's trainer beside standard training and the eager reference, each in its process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import pytest
import torch

from benchmarks import compiled, step_process
from benchmarks.conftest import Measure
from benchmarks.interleaving import Job
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, SPEEDUP, Comparison
from benchmarks.step_process import COMPILED, EAGER, OURS, STOCK, StepProcess, choose
from benchmarks.stock import CANDIDATES, PLAIN, Settings

PLAIN_GOALS = {"2C2F": 0.80, "4C3F": 0.85, "6C2F": 1.02}
EAGER_GOALS = {"2C2F": 2.3, "4C3F": 1.9, "6C2F": 1.6}
FORMATS = [Settings(channels_last, fused=True) for channels_last in (False, True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(name: str, measure: Measure, device: torch.device, quick: bool) -> None:
    case = NETWORKS[name].case
    rounds = 3 if quick else 7
    standard = choose(name, device, STOCK, CANDIDATES, rounds)
    eager = choose(name, device, EAGER, FORMATS, rounds)
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
        compiled.add_compiled(contenders, left_out, lambda: start(COMPILED, eager_best), quick=quick)
        measure(
            "training step",
            case,
            contenders,
            [
                Comparison("stock, best", COST, 1.05),
                Comparison("stock, plain", COST, PLAIN_GOALS[name]),
                Comparison("eager", SPEEDUP, EAGER_GOALS[name]),
                Comparison(compiled.NAME, SPEEDUP),
            ],
            described={
                "gloro_fast": "Trainer.step: MinMax, TRADES-KL, T = 5, fused Adam, metrics",
                "stock, best": f"standard ReLU training, cross entropy, {best}",
                "stock, plain": f"standard ReLU training, cross entropy, {PLAIN}",
                "eager": f"the same GloRo step in plain PyTorch, {eager_best}",
                compiled.NAME: f"the eager step with its loss compiled, {eager_best}",
            },
            seconds=18,
            settle=step_process.settle,
            left_out=left_out,
            notes=[
                _candidates(f"{case}, stock's candidates", standard),
                _candidates(f"{case}, formats of the eager step", eager),
            ],
        )


def _candidates(what: str, medians: Mapping[Settings, float]) -> str:
    listed = "; ".join(f"{settings} {seconds * 1e3:.1f} ms" for settings, seconds in medians.items())
    return f"{what}, medians of the choosing rounds: {listed}"
