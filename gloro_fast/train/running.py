"""Sums over the batches of an epoch, kept on the training device so that no step waits for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LOSS, _IMAGES, _CORRECT, _VERIFIED, _LIPSCHITZ, _BAD_STEP = range(6)


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

    Attributes:
        values: (6,) on the device, float64 where the device has it: everything there is to save.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.values = torch.zeros(6, dtype=dtype, device=device)

    def reset(self) -> None:
        """Begin anew."""
        self.values.zero_()

    @torch.no_grad()
    def add(self, step: int, images: int, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor) -> None:
        """Add one batch; nothing waits for the device.

        Args:
            step: its number in the epoch, from 1.
            images: how many it has.
            loss: scalar, their mean loss.
            correct: scalar, how many were classified correctly.
            verified: scalar, how many of those were certified.
            lipschitz: scalar, the K they saw.
        """
        values = self.values
        loss = loss.detach().to(values.dtype)
        # The first step with a loss that is not finite stays.
        bad = torch.where((values[_BAD_STEP] == 0) & ~loss.isfinite(), float(step), values[_BAD_STEP])
        batch = torch.stack([loss * images, torch.full_like(loss, images), correct.to(loss), verified.to(loss)])
        values[:_LIPSCHITZ] += batch
        values[_LIPSCHITZ] = lipschitz.to(loss)
        values[_BAD_STEP] = bad

    def read(self) -> Running:
        """Give the means; waits for the device."""
        loss, images, correct, verified, lipschitz, _ = self.values.tolist()
        count = max(images, 1.0)
        return Running(loss / count, correct / count, verified / count, lipschitz)

    def first_bad_step(self) -> int:
        """Give the number of the first step whose loss was NaN or infinite, or 0; waits for the device."""
        return int(self.values[_BAD_STEP])
