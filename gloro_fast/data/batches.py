"""Mini-batches in an order decided beforehand, so that an interrupted epoch can go on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from gloro_fast.data.dataset import Split
from gloro_fast.data.source import Source
from gloro_fast.data.streaming import CudaCopier, has_room, stream
from gloro_fast.distributed import ALONE, Group
from gloro_fast.errors import ConfigError
from gloro_fast.pixels import bytes_to_float, check_floats

_Part = TypeVar("_Part", bound=Split | Source)


class Batches:
    """The mini-batches of a split, in file order or shuffled; the last partial batch is kept.

    Iterating gives (images, labels): float32 (B, C, H, W) in [0, 1] and int64 (B,), on ``device``. The split
    is moved there once; indexing and the division by 255 happen on it. Images that would take more than half of the
    free memory of a GPU stay on the CPU, and each batch is copied while the one before is worked on.

    To resume in mid-epoch, keep the order and the number of batches done::

        order = batches.order(generator)
        for images, labels in batches.epoch(order, start=done):
            ...

    Args:
        split: the images and labels.
        batch_size: images a batch, at most ``len(split)``.
        shuffle: whether :meth:`order` is random.
        device: where the batches are wanted.
        generator: CPU generator that :meth:`order` draws from when it is given none; None is torch's own.
        once: whether each image is wanted but once: then none is moved to a GPU before its batch.
        group: who shares the batches: each process goes through its :meth:`part` of every one.

    Attributes:
        images: of the whole split, on ``device`` if ``is_resident``, else on the CPU.
        labels: theirs, on ``device``.
        device: where the batches are wanted.
        is_resident: whether all images are on ``device``.

    Raises:
        ConfigError: ``batch_size`` is below 1 or larger than the split.
        DataError: NaN or infinite pixels.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        once: bool = False,
        group: Group = ALONE,
    ) -> None:
        check_batch_size(batch_size, len(split))
        if split.images.is_floating_point():
            check_floats(split.images, "images")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator
        self._group = group
        self.labels = split.labels.to(device)
        self.device = self.labels.device
        self.is_resident = has_room(split.images, self.labels.device, once)
        self.images = split.images.to(device) if self.is_resident else split.images.cpu()

    def __len__(self) -> int:
        """Count the batches of an epoch, the partial one included."""
        return -(-len(self.labels) // self.batch_size)

    def size(self, index: int) -> int:
        """Count the images of batch ``index``."""
        return min(self.batch_size, len(self.labels) - index * self.batch_size)

    def part(self, index: int) -> slice:
        """Return which of the images of batch ``index`` this process is given: all of them, unless a group shares."""
        return self._group.part(self.size(index))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through one epoch, in a new order."""
        return self.epoch(self.order())

    def order(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw the order of an epoch.

        Args:
            generator: CPU generator to draw from instead of the one given at construction.

        Returns:
            (N,) int64 on the CPU: a permutation, or 0 to N - 1 where ``shuffle`` is False (nothing is drawn).
        """
        if not self.shuffle:
            return torch.arange(len(self.labels))
        return torch.randperm(len(self.labels), generator=generator or self.generator)

    def epoch(self, order: Tensor, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the batches that ``order`` makes, from batch ``start`` on.

        Args:
            order: (N,) int64 on the CPU, from :meth:`order`.
            start: how many batches of that order were used already, 0 to ``len(self)``.

        Returns:
            An iterator over (images, labels).

        Raises:
            ConfigError: ``order`` is no permutation of this split, or ``start`` is outside the epoch.
        """
        self.check(order, start)
        if self.is_resident:
            return self._gather(order.to(self.labels.device), start)
        return self._stream(order.cpu(), start)

    def check(self, order: Tensor, start: int) -> None:
        """Refuse what is no order of this split, or no place in an epoch; see :meth:`epoch`."""
        check_order(order, start, len(self.labels), len(self))

    def _gather(self, order: Tensor, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in self._pieces(order, start):
            images = self.images[chosen]
            yield bytes_to_float(images) if images.dtype == torch.uint8 else images, self.labels[chosen]

    def _stream(self, order: Tensor, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.labels.device
        pieces = self._pieces(order, start)
        for images, chosen in stream(self.images, pieces, CudaCopier(self.images, self.batch_size, device)):
            yield bytes_to_float(images) if images.dtype == torch.uint8 else images, self.labels[chosen.to(device)]

    def _pieces(self, order: Tensor, start: int) -> Iterator[Tensor]:
        for piece in torch.split(order[start * self.batch_size :], self.batch_size):
            if len(piece):  # split() gives one empty piece when start is the end
                yield piece if self._group.size == 1 else piece[self._group.part(len(piece))]


def check_batch_size(batch_size: int, count: int | None) -> None:
    """Refuse a batch size below 1, or above the number of images where that is known."""
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size} is too small; use --batch-size 1 or more")
    if count is not None and batch_size > count:
        raise ConfigError(
            f"batch size {batch_size} is larger than the data set's {count} images; use --batch-size {count} or less"
        )


def check_order(order: Tensor, start: int, count: int, batches: int) -> None:
    """Refuse what is no permutation of ``count`` images, or no place in an epoch of ``batches``."""
    if order.dtype != torch.int64 or not torch.equal(order.cpu().sort().values, torch.arange(count)):
        raise ConfigError(f"the data order is not a permutation of the {count} images; it is of another data set")
    if not 0 <= start <= batches:
        raise ConfigError(f"batch {start} is outside an epoch of {batches} batches; is it another data set?")


def split_validation(split: _Part, size: int, seed: int) -> tuple[_Part, _Part]:
    """Set ``size`` random images aside for validation; the same ones for the same seed.

    Args:
        split: what to divide, a :class:`Split` or :class:`Source`.
        size: images in the validation split, 1 to ``len(split) - 1``.
        seed: decides which.

    Returns:
        (training, validation), each in the order of ``split``; copies where it is in memory.

    Raises:
        ConfigError: ``size`` leaves one of the two empty, or the images come as a stream.
    """
    count = len(split)
    if not 0 < size < count:
        raise ConfigError(
            f"a validation split of {size} cannot be taken from {count} images; use 1 to {count - 1}, "
            "or no validation split at all"
        )
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    kept, held_out = mixed[size:].sort().values, mixed[:size].sort().values
    return split.take(kept), split.take(held_out)  # type: ignore[return-value]
