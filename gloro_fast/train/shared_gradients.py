"""The gradients of a batch that several processes share: summed in one exchange between backward pass and update."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from gloro_fast.distributed import Group

# Beside the gradients: loss, images classified correctly, those certified, K, and whether a process is to stop.
_BESIDE = 5


class SharedGradients:
    """All gradients in one row of numbers, with what else of a step is to be summed.

    ``DistributedDataParallel`` would send them bucket by bucket from hooks in the backward pass, which a captured step
    has no Python for, and it knows no bound whose gradient is kept apart. Here a step is two pieces, each of which can
    be captured, with one sum between them.

    Args:
        parameters: what is trained, all on one device, dense in memory.
        group: who shares.
    """

    def __init__(self, parameters: Iterable[Tensor], group: Group) -> None:
        self._parameters, self._group = list(parameters), group
        sizes = [parameter.numel() for parameter in self._parameters]
        dtype = torch.float32
        for parameter in self._parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        self._numbers = torch.zeros(sum(sizes) + _BESIDE, dtype=dtype, device=self._parameters[0].device)
        *pieces, self._beside = torch.split(self._numbers, [*sizes, _BESIDE])
        # The optimizer goes through gradients as they lie, as their parameters do.
        self._gradients = [
            piece.as_strided(parameter.shape, parameter.stride(), piece.storage_offset())
            for piece, parameter in zip(pieces, self._parameters, strict=True)
        ]
        *self._statistics, self._stop = self._beside.unbind()
        self._sum: Callable[[], object] | None = None

    @torch.no_grad()
    def collect(self, weight: float, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor) -> None:
        """Take up the gradients that the parameters have, which are weighted already, and the numbers of the step.

        Args:
            weight: what this process's part counts in the whole batch.
            loss: scalar, the mean over the part.
            correct: scalar, how many images of the part were classified correctly.
            verified: scalar, how many of those were certified.
            lipschitz: scalar, the K they saw, the same in all processes.
        """
        there, found = [], []
        for parameter, place in zip(self._parameters, self._gradients, strict=True):
            if parameter.grad is None:
                place.zero_()
            else:
                there.append(place)
                found.append(parameter.grad)
                parameter.grad = place
        torch._foreach_copy_(there, found)
        counted = float(weight > 0)
        numbers = (loss * weight, correct * counted, verified * counted, lipschitz / self._group.size)
        self._beside[:-1].copy_(torch.stack([number.to(self._beside.dtype) for number in numbers]))

    def exchange(self, stop: bool) -> None:
        """Sum everything over all processes, with the same bits in each.

        Args:
            stop: whether this process is to stop.

        Raises:
            DistributedError: a process has ended.
        """
        self._stop.fill_(float(stop))
        if self._sum is None:  # Not before: all processes have come here, whatever went wrong in one of them till then.
            self._sum = self._group.summing(self._numbers)
        self._sum()

    @property
    def statistics(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, correct and verified of the whole batch, and K: scalars that the next exchange overwrites."""
        loss, correct, verified, lipschitz = self._statistics
        return loss, correct, verified, lipschitz

    def wants_stop(self) -> bool:
        """Return whether any process was to stop at the last exchange; waits for the device."""
        return bool(self._stop)
