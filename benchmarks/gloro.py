"""gloro_fast as its users run it: a trainer on synthetic data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.networks import LAMBDA, Network
from gloro_fast.data import Batches
from gloro_fast.train import Trainer


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
