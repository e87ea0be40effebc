"""What losses of the smoothed classifier share: noisy copies of images, and what f says of them on average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.losses.criterion import Criterion


class SampledLoss(Criterion):
    """A criterion of the smoothed classifier g(x) = E f(x + noise), which calls f on noisy copies of its own.

    Call ``criterion(module, images, labels, noise, deviation, epsilon)``; recipes with a ``noise`` train so.

    Args:
        samples: noisy copies of each image, >= 1.

    Raises:
        ConfigError: ``samples`` is no whole number >= 1.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        if not isinstance(samples, int) or samples < 1:
            raise ConfigError(f"samples is {samples!r}; the noisy copies of an image must be a whole number >= 1")
        self.samples = samples

    def forward(
        self,
        module: nn.Module,
        images: Tensor,
        labels: Tensor,
        noise: Tensor,
        deviation: float,
        epsilon: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, and the (B, m) softmax of f as averaged over the copies.

        Args:
            module: f, from images to logits (B, m).
            images: (B, C, H, W).
            labels: (B,) int64.
            noise: (B * samples, C, H, W), what to add to the copies, those of an image beside each other.
            deviation: standard deviation of the noise.
            epsilon: l2 radius that attacks keep to; a number or a 0-dim tensor.
        """
        raise NotImplementedError

    def logits(self, module: nn.Module, images: Tensor, noise: Tensor) -> Tensor:
        """Return f of the noisy copies, (B, samples, m), at least float32."""
        # repeat_interleave would add the gradients of copies to their images by index, in no certain order on a GPU.
        copies = images[:, None].expand(-1, self.samples, *images.shape[1:]).flatten(0, 1)
        found: Tensor = module(copies + noise)
        return found.to(torch.promote_types(found.dtype, torch.float32)).reshape(len(images), self.samples, -1)
