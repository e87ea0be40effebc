"""The bound of all layers with its gradient: narrow nets and wide ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import bound_jobs, eager
from benchmarks.gpu.rows import Rows, run
from benchmarks.interleaving import Job
from benchmarks.networks import NETWORKS
from gloro_fast.ops import Geometry
from gloro_fast.rules.registry import LinearMap

STACKS = ((12, 64, 16), (4, 256, 32), (4, 512, 16), (16, 256, 16))  # layers, channels, side


def measure(rows: Rows) -> None:
    """Time five iterations of all layers with the gradient, beside a loop over layers and one grouped convolution."""
    for name, network in NETWORKS.items():
        _compare(rows, name, network.linear_maps(rows.device))
    for layers, channels, side in STACKS[:1] if rows.fast else STACKS:
        geometry = Geometry((channels, side, side), (1, 1), ((1, 1), (1, 1)), (1, 1))
        weights = [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(rows.device).weight for _ in range(layers)
        ]
        maps = [LinearMap(weight, geometry) for weight in weights]
        _compare(rows, f"{layers} convolutions of {channels} channels, {side} x {side}", maps)
        rows.row("    one grouped convolution", partial(_grouped, weights, geometry))


def _compare(rows: Rows, name: str, maps: Sequence[LinearMap]) -> None:
    weights, geometries = [each.weight for each in maps], [each.geometry for each in maps]
    ours = rows.row(
        f"{name}, {bound_jobs.flops(maps) / 1e9:.2f} GFLOP", partial(bound_jobs.ours, weights, geometries, weights)
    )
    loop = rows.row("    eager loop", partial(bound_jobs.eager_loop, weights, geometries, weights))
    rows.ratio("ours / eager loop", ours, loop)


def _grouped(weights: Sequence[Tensor], geometry: Geometry) -> Job:
    iterates = torch.cat(eager.start([geometry] * len(weights), weights[0].device), dim=1)

    def job() -> None:
        sigma = eager.grouped_spectral_norms(weights, iterates, geometry, bound_jobs.ITERATIONS)
        torch.autograd.grad(sigma.prod(), weights)

    return job


if __name__ == "__main__":
    run(measure)
