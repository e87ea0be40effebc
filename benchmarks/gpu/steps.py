"""A training step of each network of the paper, float32 and bfloat16, beside stock PyTorch; eager and as a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks.captured import captured
from benchmarks.gloro import GloRoStep, by_hand
from benchmarks.gpu.rows import Rows, run
from benchmarks.interleaving import Job
from benchmarks.networks import NETWORKS, Network
from benchmarks.stock import Settings, StandardStep

LARGEST = Network("8C2F", "tiny-imagenet-8c2f", (3, 64, 64), 256, classes=200)
BATCHES = {"2C2F": 512, "4C3F": 256, "6C2F": 256}
SETTINGS = Settings(channels_last=True, inplace=True, fused=True)


def networks(fast: bool) -> Iterator[Network]:
    """Yield the paper's networks at the batches of a GPU."""
    for network in (*(replace(NETWORKS[name], batch_size=size) for name, size in BATCHES.items()), LARGEST):
        yield replace(network, batch_size=4) if fast else network


def measure(rows: Rows) -> None:
    """Time steps of gloro_fast's trainer, of a loop by hand and of stock PyTorch, and each as one CUDA graph."""
    for each in networks(rows.fast):
        for precision in ("float32", "bfloat16"):
            network = replace(each, precision=precision)
            case = f"{network.case}, {precision}"
            trainer = rows.row(f"{case}: Trainer.step", partial(GloRoStep, network, rows.device))
            rows.row(f"{case}: by hand", partial(by_hand, network, rows.device))
            plain = rows.row(f"{case}: stock", partial(stock, network, rows))
            rows.ratio("Trainer.step / stock", trainer, plain)
            if rows.device.type == "cuda":
                graph = rows.row(f"{case}: by hand, graph", partial(by_hand, network, rows.device, graph=True))
                rival = rows.row(f"{case}: stock, graph", partial(stock, network, rows, graph=True))
                rows.ratio("Trainer.step / stock in a graph", trainer, rival)
                rows.ratio("by hand in a graph / stock in a graph", graph, rival)


def stock(network: Network, rows: Rows, graph: bool = False) -> Job:
    """Make a step of the ReLU net with cross entropy."""
    batch = network.data(network.batch_size).train
    images, labels = (batch.images / 255).to(rows.device), batch.labels.to(rows.device)
    step = StandardStep(network, SETTINGS, images, labels, capturable=graph)
    return captured(step, rows.device) if graph else step


if __name__ == "__main__":
    run(measure)
