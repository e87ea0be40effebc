"""One training step: gloro_fast's trainer beside standard training and the eager reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks import compiled
from benchmarks.candidates import fastest
from benchmarks.conftest import Measure
from benchmarks.eager import EagerStep
from benchmarks.gloro import GloRoStep
from benchmarks.interleaving import Job
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, SPEEDUP, Comparison
from benchmarks.stock import CANDIDATES, PLAIN, Settings, StandardStep

PLAIN_GOALS = {"2C2F": 0.80, "4C3F": 0.85, "6C2F": 1.02}
EAGER_GOALS = {"2C2F": 2.3, "4C3F": 1.9, "6C2F": 1.6}
FORMATS = [Settings(channels_last, fused=True) for channels_last in (False, True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(
    name: str, measure: Measure, device: torch.device, synchronize: Callable[[], None], quick: bool
) -> None:
    network = NETWORKS[name]
    rounds = 3 if quick else 7
    ours = GloRoStep(network, device)
    images, labels, geometries = ours.images, ours.labels, ours.geometries()

    standard = {settings: StandardStep(network, settings, images, labels) for settings in CANDIDATES}
    best, standard_medians = fastest(standard, synchronize, rounds)
    eager = {settings: EagerStep(network, settings, images, labels, geometries) for settings in FORMATS}
    eager_best, eager_medians = fastest(eager, synchronize, rounds)

    contenders: dict[str, Job] = {
        "gloro_fast": ours,
        "stock, best": standard[best],
        "stock, plain": StandardStep(network, PLAIN, images, labels),
        "eager": eager[eager_best],
    }
    left_out: dict[str, str] = {}
    compiled.add_compiled(
        contenders,
        left_out,
        lambda: EagerStep(network, eager_best, images, labels, geometries, compile=True),
        quick,
    )
    measure(
        "training step",
        network.case,
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
        left_out=left_out,
        notes=[
            _candidates(f"{network.case}, stock's candidates", standard_medians),
            _candidates(f"{network.case}, formats of the eager step", eager_medians),
        ],
    )


def _candidates(what: str, medians: dict[Settings, float]) -> str:
    listed = "; ".join(f"{settings} {seconds * 1e3:.1f} ms" for settings, seconds in medians.items())
    return f"{what}, medians of the choosing rounds: {listed}"
