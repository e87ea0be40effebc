"""Freezing a net, and certifying images beside a plain forward pass."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from benchmarks.gpu.rows import Rows, run
from benchmarks.gpu.steps import LARGEST
from benchmarks.networks import NETWORKS, Network
from gloro_fast import GloRoNet, architectures

IMAGES = 500


def measure(rows: Rows) -> None:
    """Time freezing by each method, and certifying beside plain forward passes, with TF32 and without."""
    for network in (NETWORKS["2C2F"], NETWORKS["6C2F"], LARGEST):
        _certify(rows, replace(network, batch_size=8 if rows.fast else IMAGES))


def _certify(rows: Rows, network: Network) -> None:
    net = random_net(network, rows.device)
    for method in ("auto",) if rows.fast or network.classes > 10 else ("power", "auto", "tight"):
        net.unfreeze()
        start = time.perf_counter()
        net.freeze(method=method)
        rows.say(f"{network.name}: freezing by {method} {time.perf_counter() - start:.2f} s, K = {net.lipschitz:.7g}")
    images = torch.rand(network.batch_size, *network.input_shape, device=rows.device)

    @torch.no_grad()
    def forward() -> None:
        net.module(images)

    case = f"{network.name}, {network.batch_size} images"
    ours = rows.row(f"{case}: certify", lambda: lambda: net.certify(images))
    rows.ratio("certify / forward", ours, rows.row(f"{case}: forward, torch's defaults", lambda: forward))
    with torch.backends.cudnn.flags(allow_tf32=False):
        strict = rows.row(f"{case}: forward without TF32", lambda: forward)
    rows.ratio("certify / forward without TF32", ours, strict)
    rows.row(f"{case}: certify, executed", lambda: lambda: net.certify(images, executed=True))


def random_net(network: Network, device: torch.device) -> GloRoNet:
    """Make the network with random weights, in evaluation mode."""
    module = architectures.build(network.name, input_shape=network.input_shape, num_classes=network.classes)
    return GloRoNet(module, 0.1, network.input_shape).to(device).eval()


if __name__ == "__main__":
    run(measure)
