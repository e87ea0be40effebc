"""Batches of a split that a GPU has no room for: gathered in pinned memory, and copied while others are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

# The rest is for the net and its activations.
_SHARE_OF_FREE_MEMORY = 0.5


def has_room(images: Tensor, device: torch.device, once: bool = False) -> bool:
    """Return whether images are to lie on ``device``: where that is a GPU, they take half of its free memory at most.

    Images that are not there yet and are wanted but ``once`` are not to.
    """
    if device.type != "cuda" or images.device == device:
        return True
    if once:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= _SHARE_OF_FREE_MEMORY * free


class CudaCopier:
    """Copies from pinned memory, on a stream of its own.

    Args:
        images: (N, ...), the split on the CPU.
        batch_size: most images of a batch.
        device: a CUDA device.
    """

    def __init__(self, images: Tensor, batch_size: int, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        shape = (batch_size, *images.shape[1:])
        # One is filled while the other is being copied.
        self._pinned = [torch.empty(shape, dtype=images.dtype, pin_memory=True) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._turn = 0

    def start(self, images: Tensor, chosen: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Gather ``images[chosen]`` and begin to copy them; return what :meth:`finish` takes."""
        copied, pinned = self._copied[self._turn], self._pinned[self._turn][: len(chosen)]
        self._turn = 1 - self._turn
        copied.synchronize()
        torch.index_select(images, 0, chosen, out=pinned)
        with torch.cuda.stream(self._stream):
            there = pinned.to(self._device, non_blocking=True)
            copied.record(self._stream)
        return there, copied

    def finish(self, started: tuple[Tensor, torch.cuda.Event]) -> Tensor:
        """Return the images on the device; what is queued there from now on finds them copied."""
        there, copied = started
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        # Or its memory would be given to another copy before what reads it is done.
        there.record_stream(current)
        return there


def stream(images: Tensor, batches: Iterable[Tensor], copier: CudaCopier) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images of each batch on the device, the next one already on its way.

    Args:
        images: (N, ...) on the CPU.
        batches: (B,) int64 each on the CPU, the images of a batch.
        copier: what brings them there.

    Yields:
        The images, and which they are.
    """
    ahead: tuple[tuple[Tensor, torch.cuda.Event], Tensor] | None = None
    for chosen in batches:
        following = copier.start(images, chosen), chosen
        if ahead is not None:
            yield copier.finish(ahead[0]), ahead[1]
        ahead = following
    if ahead is not None:
        yield copier.finish(ahead[0]), ahead[1]
