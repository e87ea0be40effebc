"""Sums over the batches of an epoch, kept on the training device so that no step waits for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.ops.statistics import record_

_LOSS, _IMAGES, _CORRECT, _VERIFIED, _LIPSCHITZ, _BAD_STEP = range(6)
_MOST_WAITING = 1000


@dataclass(frozen=True)
class Running:
    """Means over the images of an epoch so far.

    Attributes:
        loss: mean loss.
        clean: share classified correctly.
        vra: share of those certified at the epsilon trained with; NaN in warm-up.
        lipschitz: K as the last step estimated it; NaN in warm-up.
    """

    loss: float
    clean: float
    vra: float
    lipschitz: float


class RunningSums:
    """Adds up loss and counts step by step.

    A step leaves its four numbers as a row of a table on the device, which a captured step does as well; the rows are
    fetched and added up, in the order of the steps, when somebody asks. As a dozen small operations a step took 2 % of
    one of 2C2F.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._values = torch.zeros(6, dtype=torch.float64)
        self._table = torch.zeros(_MOST_WAITING, 4, dtype=torch.float64, device=device)
        self._next_row = torch.zeros(1, dtype=torch.int64, device=device)
        self._waiting: list[tuple[int, int]] = []

    @property
    def values(self) -> Tensor:
        """(6,) float64 on the CPU: everything there is to save. Waits for the device."""
        if self._waiting:
            values = self._values.tolist()
            rows = self._table[: len(self._waiting)].tolist()
            for (step, images), (loss, correct, verified, lipschitz) in zip(self._waiting, rows, strict=True):
                for place, amount in ((_LOSS, loss * images), (_IMAGES, images), (_CORRECT, correct)):
                    values[place] += amount
                values[_VERIFIED] += verified
                values[_LIPSCHITZ] = lipschitz
                if not values[_BAD_STEP] and not math.isfinite(loss):
                    values[_BAD_STEP] = step  # the first stays
            self._values.copy_(torch.tensor(values, dtype=torch.float64))
            self._forget()
        return self._values

    def reset(self) -> None:
        """Begin anew."""
        self._forget()
        self._values.zero_()

    @torch.no_grad()
    def record(self, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor) -> None:
        """Leave the numbers of one step on the device; :meth:`count` is to be called for it as well.

        Args:
            loss: scalar, the mean loss of its images.
            correct: scalar, how many were classified correctly.
            verified: scalar, how many of those were certified.
            lipschitz: scalar, the K they saw.
        """
        record_(self._table, self._next_row, loss, correct, verified, lipschitz)

    def count(self, step: int, images: int) -> None:
        """Count a step that was recorded; nothing waits for the device, but once in a thousand steps without a look.

        Args:
            step: its number in the epoch, from 1.
            images: how many it has.
        """
        self._waiting.append((step, images))
        if len(self._waiting) >= _MOST_WAITING:
            _ = self.values

    def _forget(self) -> None:
        self._waiting.clear()
        self._next_row.zero_()

    def read(self) -> Running:
        """Return the means; waits for the device."""
        loss, images, correct, verified, lipschitz, _ = self.values.tolist()
        count = max(images, 1.0)
        return Running(loss / count, correct / count, verified / count, lipschitz)

    def first_bad_step(self) -> int:
        """Return the number of the first step whose loss was NaN or infinite, or 0; waits for the device."""
        return int(self.values[_BAD_STEP])
