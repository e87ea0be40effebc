"""Mini-batches of a split that is read anew at every epoch."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gloro_fast.data.batches import check_batch_size, check_order
from gloro_fast.data.dataset import check_labels
from gloro_fast.data.source import Source
from gloro_fast.distributed import ALONE, Group
from gloro_fast.errors import ConfigError
from gloro_fast.pixels import bytes_to_float


class SourceBatches:
    """The mini-batches of a :class:`Source`, in a resumable order; the last partial batch is kept.

    Iterating gives what :class:`Batches` does. Bytes are copied as they are, from pinned memory to a GPU, and divided
    there. Going on in the middle of an epoch gives the batches that were to come; what is iterated over is read again
    up to there.

    Args:
        source: the images and labels.
        batch_size: images a batch; at most ``len(source)``.
        shuffle: whether :meth:`order` is random. Only without may the length be unknown; else it is counted.
        device: where the batches are wanted.
        num_classes: what labels are checked against, on the CPU.
        group: who shares the batches. Each process reads all of a batch, so that a transform draws what it would alone,
            and gives its part.

    Attributes:
        device: where the batches are wanted.
        is_resident: False.

    Raises:
        ConfigError: ``batch_size`` is below 1 or larger than the source.
    """

    is_resident = False

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        shuffle: bool,
        device: torch.device | str = "cpu",
        num_classes: int,
        group: Group = ALONE,
    ) -> None:
        check_batch_size(batch_size, len(source) if shuffle else source.known_length)
        self.batch_size, self.shuffle, self.device = batch_size, shuffle, torch.device(device)
        self._source, self._num_classes, self._group = source, num_classes, group

    def __len__(self) -> int:
        """Count the batches of an epoch, the partial one included."""
        return -(-len(self._source) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through one epoch, in a new order."""
        return self.epoch(self.order())

    def size(self, index: int) -> int:
        """Count the images of batch ``index``."""
        return min(self.batch_size, len(self._source) - index * self.batch_size)

    def order(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw the order of an epoch.

        Args:
            generator: CPU generator; None is torch's own.

        Returns:
            int64 on the CPU: (N,), a permutation, as ``Batches.order`` draws it, where the source is indexed; of a
            stream (1,), the seed of its shuffling. Nothing is drawn where ``shuffle`` is False.
        """
        if not self._source.is_indexed:
            return torch.randint(2**62, (1,), generator=generator) if self.shuffle else torch.zeros(1, dtype=torch.long)
        count = len(self._source)
        return torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)

    def check(self, order: Tensor, start: int) -> None:
        """Refuse what is no order of this source, or no place in an epoch."""
        if self._source.is_indexed:
            check_order(order, start, len(self._source), len(self))
        elif order.shape != (1,) or order.dtype != torch.int64 or start < 0:
            raise ConfigError("the data order is not the seed of a stream; it is of another data set")

    def epoch(self, order: Tensor, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the batches that ``order`` makes, from batch ``start`` on.

        Args:
            order: from :meth:`order`.
            start: how many batches of that order were used already.

        Returns:
            An iterator over (images, labels), float32 in [0, 1] and int64, on ``device``.

        Raises:
            ConfigError: ``order`` is none of this source, or ``start`` is outside the epoch.
            DataError: an image that does not fit, or a label that names no class.
        """
        self.check(order, start)
        return self._moved(self._indexed(order, start) if self._source.is_indexed else self._streamed(order, start))

    def _moved(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            check_labels(labels, self._num_classes, "a batch of the data")
            if self._group.size > 1:
                part = self._group.part(len(labels))
                images, labels = images[part], labels[part]
            if self.device.type == "cuda":
                images, labels = images.pin_memory(), labels.pin_memory()
            images, labels = (tensor.to(self.device, non_blocking=True) for tensor in (images, labels))
            yield bytes_to_float(images) if images.dtype == torch.uint8 else images, labels

    def _indexed(self, order: Tensor, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        # One seed a batch, so that neither resuming nor the number of processes changes what a transform draws.
        seed = int.from_bytes(hashlib.sha256(order.numpy().data).digest()[:7])
        pieces = [(seed + number, piece) for number, piece in enumerate(torch.split(order, self.batch_size))][start:]
        loader: DataLoader[Any] = DataLoader(
            _Pieces(self._source),  # type: ignore[arg-type]
            batch_size=None,
            sampler=pieces,
            collate_fn=_as_it_is,
            num_workers=self._source.workers,
            generator=torch.Generator(),  # else a number of torch's own would be drawn
        )
        return iter(loader)

    def _streamed(self, order: Tensor, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self._source.stream(int(order), self.shuffle)
        rows = itertools.islice(rows, start * self.batch_size, None)
        for batch in iter(lambda: tuple(itertools.islice(rows, self.batch_size)), ()):
            images, labels = zip(*batch, strict=True)
            yield torch.stack(images), torch.stack(labels)


class _Pieces:
    """What a process of a ``DataLoader`` reads a batch from."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, piece: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
        return self._source.read(piece[1].tolist(), piece[0])


def _as_it_is(batch: Any) -> Any:
    return batch
