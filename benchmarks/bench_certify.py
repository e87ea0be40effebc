"""Certifying 10,000 images with a frozen net beside a plain forward pass over the same images."""

from __future__ import annotations

import pytest
import torch

from benchmarks.conftest import Measure
from benchmarks.gloro import GloRoStep
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, Comparison

IMAGES, IMAGES_QUICK, BATCH = 10_000, 2_000, 512


@pytest.mark.parametrize("name", NETWORKS)
def test_certify(name: str, measure: Measure, device: torch.device, quick: bool) -> None:
    network = NETWORKS[name]
    net = GloRoStep(network, device).trainer.net.eval()
    net.freeze("power")
    count = IMAGES_QUICK if quick else IMAGES
    batches = torch.rand(count, *network.input_shape, device=device).split(BATCH)  # type: ignore[no-untyped-call]

    def certify() -> None:
        for images in batches:
            net.certify(images)

    @torch.no_grad()
    def plain() -> None:
        for images in batches:
            net.module(images)

    measure(
        "certifying",
        f"{name}, {count:,} images, batches of {BATCH}",
        {"gloro_fast": certify, "plain forward": plain},
        [Comparison("plain forward", COST, 1.03)],
        described={
            "gloro_fast": "net.certify; the net frozen before, its weights checked at every batch",
            "plain forward": "the same net.module without gradients",
        },
        seconds=15,
    )
