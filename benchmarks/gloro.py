"""gloro_fast as its users run it: a trainer on synthetic data, or a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.interleaving import Job
from benchmarks.networks import LAMBDA, Network
from benchmarks.stock import adam
from gloro_fast import GloRoNet, architectures
from gloro_fast.data import Batches
from gloro_fast.losses import TradesLoss
from gloro_fast.train import GraphedStep, Trainer, keep_freed_memory


class GloRoStep:
    """A training step of ``gloro_fast.train.Trainer``: MinMax net, TRADES-KL, its memory format and optimizer.

    Metrics that the trainer counts at every step are counted here too. Creating it writes no run folder.

    Args:
        network: the architecture and its recipe.
        device: where to train.
        images: how many images an epoch has; one batch by default.
    """

    def __init__(self, network: Network, device: torch.device, images: int | None = None) -> None:
        data = network.data(images or network.batch_size)
        keep_freed_memory()  # as gloro-fast train does
        # Nothing is written: only Trainer.fit opens the run folder.
        self.trainer = Trainer(network.recipe, data, Path("runs/benchmark"), device=str(device), overwrite=True)
        self.trainer.criterion.lam = LAMBDA
        self.module = self.trainer.net.train()
        self._batches = Batches(data.train, network.batch_size, shuffle=True, device=device)
        self.images, self.labels = next(self.batches(torch.arange(len(data.train))))

    def __call__(self) -> None:
        """Step on the first batch."""
        self.trainer.step(self.images, self.labels)

    def batches(self, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the batches of an epoch, in a random order unless one is given."""
        return self._batches.epoch(self._batches.order() if order is None else order)

    def resident(self) -> list[Tensor]:
        """List the tensors that live on between steps, gradients apart."""
        state = self.trainer.state
        moments = [value for moment in state.optimizer.state.values() for value in moment.values()]
        return [*state.net.parameters(), *state.net.buffers(), *moments, state.sums.values, self.images, self.labels]


def by_hand(network: Network, device: torch.device, *, graph: bool = False) -> Job:
    """Make a step of a loop of one's own, in channels_last: net, criterion, fused Adam, nothing counted.

    Args:
        network: the architecture and its recipe.
        device: where to train.
        graph: whether the step is one CUDA graph; its calls raise where it cannot be captured.
    """
    batch = network.data(network.batch_size).train
    images, labels = (batch.images / 255).to(device), batch.labels.to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    module = architectures.build(network.name, input_shape=network.input_shape, num_classes=network.classes)
    net = GloRoNet(module, network.recipe.epsilon, network.input_shape).train()
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion, optimizer = TradesLoss(LAMBDA), adam(net, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with network.autocast(device):
            loss = net(images, labels, criterion)
        loss.backward()
        optimizer.step()

    if not graph:
        return step
    graphed = GraphedStep(net, optimizer, criterion)

    def replay() -> None:
        with network.autocast(device):
            graphed(images, labels)
        if graphed.why_eager:
            raise RuntimeError(graphed.why_eager)

    return replay
