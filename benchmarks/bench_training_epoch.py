"""A short epoch: shuffled batches gathered from memory, steps, and the reading of the metrics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.candidates import fastest
from benchmarks.conftest import Measure
from benchmarks.gloro import GloRoStep
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, Comparison
from benchmarks.stock import CANDIDATES, StandardStep

STEPS = 12


@pytest.mark.parametrize("name", NETWORKS)
def test_training_epoch(
    name: str, measure: Measure, device: torch.device, synchronize: Callable[[], None], quick: bool
) -> None:
    if quick and name != "2C2F":
        pytest.skip("left out of the quick run")
    network = NETWORKS[name]
    ours = GloRoStep(network, device, images=STEPS * network.batch_size)
    standard = {settings: StandardStep(network, settings, ours.images, ours.labels) for settings in CANDIDATES}
    best, _ = fastest(standard, synchronize, rounds=3 if quick else 7)
    step = standard[best]

    def epoch() -> None:
        ours.trainer.state.sums.reset()
        for images, labels in ours.batches():
            ours.trainer.step(images, labels)
        ours.trainer.state.sums.read()

    def standard_epoch() -> None:
        for images, labels in ours.batches():
            step.train_on(images, labels)

    measure(
        "training epoch",
        f"{network.case}, {STEPS} steps",
        {"gloro_fast": epoch, "stock, best": standard_epoch},
        [Comparison("stock, best", COST)],
        described={
            "gloro_fast": "gloro_fast's batches, Trainer.step, metrics read at the end",
            "stock, best": f"the same batches, standard ReLU training, {best}",
        },
        seconds=20,
    )
