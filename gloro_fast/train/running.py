"""Sums over the batches of an epoch, kept on the training device so that no step waits for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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

    A step leaves its four numbers side by side on the device, in one operation; they are fetched and added up, in the
    order of the steps, when somebody asks. As a dozen small operations a step took 2 % of one of 2C2F.
    """

    def __init__(self) -> None:
        self._values = torch.zeros(6, dtype=torch.float64)
        self._waiting: list[tuple[int, int, Tensor]] = []

    @property
    def values(self) -> Tensor:
        """(6,) float64 on the CPU: everything there is to save. Waits for the device."""
        if self._waiting:
            values = self._values.tolist()
            for step, images, numbers in self._waiting:
                loss, correct, verified, values[_LIPSCHITZ] = numbers.tolist()
                for place, amount in ((_LOSS, loss * images), (_IMAGES, images), (_CORRECT, correct)):
                    values[place] += amount
                values[_VERIFIED] += verified
                if not values[_BAD_STEP] and not math.isfinite(loss):
                    values[_BAD_STEP] = step  # the first stays
            self._values.copy_(torch.tensor(values, dtype=torch.float64))
            self._waiting.clear()
        return self._values

    def reset(self) -> None:
        """Begin anew."""
        self._waiting.clear()
        self._values.zero_()

    @torch.no_grad()
    def add(self, step: int, images: int, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor) -> None:
        """Add one batch; nothing waits for the device, but once in a thousand steps that nobody has asked about.

        Args:
            step: its number in the epoch, from 1.
            images: how many it has.
            loss: scalar, their mean loss.
            correct: scalar, how many were classified correctly.
            verified: scalar, how many of those were certified.
            lipschitz: scalar, the K they saw.
        """
        # Of different types: they become the widest floating one, in which such counts are exact.
        self._waiting.append((step, images, torch.stack([loss, correct, verified, lipschitz])))
        if len(self._waiting) >= _MOST_WAITING:
            _ = self.values

    def read(self) -> Running:
        """Give the means; waits for the device."""
        loss, images, correct, verified, lipschitz, _ = self.values.tolist()
        count = max(images, 1.0)
        return Running(loss / count, correct / count, verified / count, lipschitz)

    def first_bad_step(self) -> int:
        """Give the number of the first step whose loss was NaN or infinite, or 0; waits for the device."""
        return int(self.values[_BAD_STEP])
