"""A training step of nets with orthogonal layers beside a step of the same module by cross entropy in stock PyTorch.

    python -m benchmarks.orthogonal_step [--rounds 15] [--threads N]

Ours computes each weight that is made of parameters once, for the forward pass and for the bound, as
``gloro_fast.nn.weights_once`` has it; beside it stands what it would take to compute them for both. The loss is EMMA,
the optimizer fused Adam, the batch 128. All three share one process that keeps freed memory. A quiet machine only.

On one core of an AMD EPYC (Zen 5), ``--rounds 12 --threads 1``, medians and ratios with 95 % intervals:

| net | gloro_fast | weights made twice | stock, cross entropy | gloro_fast / stock | twice / stock |
|---|---|---|---|---|---|
| CayleyLinear | 81.1 ms | 153.8 ms | 77.8 ms | 1.03 [1.02, 1.05] | 1.97 [1.92, 1.99] |
| CholeskyLinear | 117.0 ms | 224.2 ms | 113.8 ms | 1.03 [1.02, 1.03] | 1.98 [1.97, 1.99] |
| torch's orthogonal | 639.7 ms | 1262.8 ms | 638.4 ms | 1.00 [0.98, 1.01] | 1.98 [1.94, 2.00] |
| BRONet-2x64 | 399.1 ms | 584.2 ms | 364.2 ms | 1.09 [1.09, 1.10] | 1.60 [1.58, 1.61] |
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from benchmarks.interleaving import Job
from benchmarks.liresnet_step import measure
from benchmarks.ratios import paired_ratio, spread
from benchmarks.stock import adam
from gloro_fast import GloRoNet
from gloro_fast.losses import EmmaLoss
from gloro_fast.models import architectures
from gloro_fast.net import gloro_net
from gloro_fast.nn import CayleyLinear, CholeskyLinear, MinMax
from gloro_fast.train import keep_freed_memory

BATCH, CLASSES, EPSILON = 128, 10, 0.1
OURS, TWICE, STOCK = "gloro_fast", "weights made twice", "stock, cross entropy"


def dense(layer: Callable[[int, int], nn.Module]) -> nn.Sequential:
    """Build two orthogonal layers of 512 units and a head for images (1, 28, 28)."""
    return nn.Sequential(nn.Flatten(), layer(784, 512), MinMax(), layer(512, 512), MinMax(), nn.Linear(512, CLASSES))


# The module and the shape of its input.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "CayleyLinear": (lambda: dense(CayleyLinear), (1, 28, 28)),
    "CholeskyLinear": (lambda: dense(CholeskyLinear), (1, 28, 28)),
    "torch's orthogonal": (lambda: dense(lambda i, o: orthogonal(nn.Linear(i, o))), (1, 28, 28)),
    "BRONet-2x64": (
        lambda: architectures.build("BRONet-2x64", input_shape=(3, 32, 32), num_classes=CLASSES),
        (3, 32, 32),
    ),
}


def contenders(name: str, batch: int = BATCH) -> dict[str, Job]:
    """Make the three steps for a net, on noise; each gives its loss."""
    make, shape = NETS[name]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, *shape, generator=generator)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    jobs: dict[str, Job] = {}
    for who in (OURS, TWICE, STOCK):
        torch.manual_seed(0)
        module = make().train()
        net = module if who == STOCK else GloRoNet(module, EPSILON, shape).train()
        loss = partial(_cross_entropy if who == STOCK else _emma, net, images, labels)
        jobs[who] = _step(loss, adam(module, fused=True), twice=who == TWICE)
    return jobs


def _cross_entropy(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(images), labels)


def _emma(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = net(images, labels, EmmaLoss())
    return loss


def _step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, twice: bool) -> Job:
    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with mock.patch.object(gloro_net, "weights_once", nullcontext) if twice else nullcontext():
            found = loss()
        found.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return found.detach()

    return step


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    before = os.getloadavg()[0]
    print(f"| net | {OURS} | {TWICE} | {STOCK} | {OURS} / stock | twice / stock |\n|---|---|---|---|---|---|")
    for name in NETS:
        seconds = measure(contenders(name), options.rounds)
        times = [f"{1e3 * spread(each).median:.1f} ms" for each in seconds.values()]
        ratios = [paired_ratio(seconds[who], seconds[STOCK]) for who in (OURS, TWICE)]
        shown = [f"{ratio.median:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}]" for ratio in ratios]
        print("| " + " | ".join([name, *times, *shown]) + " |", flush=True)
    print(f"\nbatch {BATCH}, {options.threads} threads, {options.rounds} rounds, ", end="")
    print(f"load {before:.1f} before and {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
