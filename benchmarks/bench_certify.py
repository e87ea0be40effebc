"""Certifying images with a frozen net beside a plain forward pass over the same images, batch by batch."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

from benchmarks.conftest import Measure
from benchmarks.gloro import GloRoStep
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, Comparison

BATCH, BATCHES = 500, 20


@pytest.mark.parametrize("name", NETWORKS)
def test_certify(name: str, measure: Measure, device: torch.device) -> None:
    network = NETWORKS[name]
    net = GloRoStep(network, device).trainer.net.eval()
    net.freeze("power")
    batches = torch.rand(BATCHES, BATCH, *network.input_shape, device=device).unbind()
    ours, theirs = cycle(batches), cycle(batches)

    def certify() -> None:
        net.certify(next(ours))

    @torch.no_grad()
    def plain() -> None:
        net.module(next(theirs))

    measure(
        "certifying",
        f"{name}, {BATCHES * BATCH:,} images, a batch of {BATCH} a round",
        {"gloro_fast": certify, "plain forward": plain},
        [Comparison("plain forward", COST, 1.03)],
        described={
            "gloro_fast": "net.certify; the net frozen before, its weights checked at every batch",
            "plain forward": "the same net.module without gradients",
        },
        seconds=15,
        least=BATCHES,
    )
