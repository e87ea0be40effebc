"""What an augmentation is: numbers drawn on the CPU, and what they do to a batch on its device."""

from __future__ import annotations

import torch
from torch import Tensor


class Augmentation:
    """An augmentation of whole batches; as it is, it leaves images unchanged and draws nothing."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment ``images``, float (B, C, H, W) in [0, 1]; ``generator`` is a CPU generator."""
        draws = self.draw(len(images), images.shape[-2], images.shape[-1], generator)
        return self.apply(images, draws.to(images.device, images.dtype)) if draws.shape[1] else images

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw what :meth:`apply` takes for ``count`` images of ``height`` x ``width``.

        Returns:
            (count, k) float32 on the CPU, a row an image; k = 0 where nothing is drawn.
        """
        return torch.empty(count, 0)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment ``images`` by rows of numbers from :meth:`draw`, on their device; nothing waits."""
        return images
