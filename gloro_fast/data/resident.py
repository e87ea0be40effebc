"""Batches that a captured step gathers by itself, by a counter that lies on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.data.augment.base import Augmentation
from gloro_fast.data.batches import Batches
from gloro_fast.pixels import bytes_to_float


@dataclass(frozen=True)
class Batch:
    """A batch on the training device.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1], not yet augmented.
        labels: (B,) int64.
        draws: (B, k) float32, what the augmentation takes.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor


class ResidentBatches:
    """The batches of one epoch after the other, in tensors whose place in memory never changes.

    :meth:`take` is what a step captures: it reads a counter on the device, gathers the batch that this counts to, and
    counts on.

    Args:
        batches: the split, on the training device.
        augmentation: whose numbers are drawn for the whole epoch beforehand, batch by batch.
    """

    def __init__(self, batches: Batches, augmentation: Augmentation) -> None:
        labels = batches.labels
        self._batches, self._augmentation = batches, augmentation
        self._height, self._width = batches.images.shape[-2:]
        self._order = torch.zeros_like(labels)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=labels.device)
        numbers = augmentation.draw(1, self._height, self._width, torch.Generator()).shape[1]
        self._draws = torch.zeros(len(labels), numbers, device=labels.device)
        self._states: list[Tensor] = []

    def begin(self, order: Tensor, start: int, generator: torch.Generator) -> None:
        """Put the batches of an epoch in place, from batch ``start`` on.

        Args:
            order: (N,) int64 on the CPU, a permutation of the split.
            start: how many batches were used already.
            generator: CPU generator of the augmentation. It is moved by :meth:`advance`, as the batches are used.
        """
        self._order.copy_(order)
        self._cursor.fill_(start)
        self._states = []
        if not self._draws.shape[1]:
            return
        copy = generator.clone_state()
        rows = []
        for index in range(start, len(self._batches)):
            rows.append(self._augmentation.draw(self._batches.size(index), self._height, self._width, copy))
            self._states.append(copy.get_state())
        if rows:
            self._draws[start * self._batches.batch_size :].copy_(torch.cat(rows))

    def advance(self, generator: torch.Generator) -> None:
        """Move the generator as the next batch does that is drawn one by one."""
        if self._states:
            generator.set_state(self._states.pop(0))

    def take(self, size: int) -> Batch:
        """Gather the batch that the counter on the device stands at, and move it on; nothing waits.

        Args:
            size: images in it, those of others included; that of all but perhaps the last.
        """
        images, labels = self._batches.images, self._batches.labels
        count = len(labels) // self._batches.batch_size
        whole = count * self._batches.batch_size
        if size == self._batches.batch_size:
            part = self._batches.part(0)
            order, numbers = (
                self._order[:whole].view(count, size),
                self._draws[:whole].view(count, size, self._draws.shape[1]),
            )
            chosen = order[:, part].index_select(0, self._cursor)[0]
            draws = numbers[:, part].index_select(0, self._cursor)[0]
        else:
            part = self._batches.part(count)
            chosen, draws = self._order[whole:][part], self._draws[whole:][part]
        self._cursor.add_(1)
        picked = images.index_select(0, chosen)
        pixels = bytes_to_float(picked) if picked.dtype == torch.uint8 else picked
        return Batch(pixels, labels.index_select(0, chosen), draws)
