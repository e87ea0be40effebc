"""MACER (Zhai et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.losses.sampled_loss import SampledLoss


class MacerLoss(SampledLoss):
    """MACER: cross entropy of the smoothed classifier, and a hinge on the radius that smoothing certifies.

    Zhai et al., "MACER: Attack-free and Scalable Robust Training via Maximizing Certified Radius", ICLR
    2020. With p the softmax of f averaged over the noisy copies, q that of ``sharpness`` f, and
    xi = Phi^-1(q_y) - Phi^-1(max over i != y of q_i), so that deviation * xi / 2 estimates the radius, the loss is

        -log p_y  +  lam deviation / 2 max(margin - xi, 0) [q_y > max over i != y of q_i, xi is finite].

    What is certified for a wrong class, or with all copies in one, has the first term alone.

    Args:
        lam: weight of the hinge, >= 0; may be set between steps.
        samples: noisy copies of each image.
        sharpness: the paper's beta, the inverse temperature of q.
        margin: the paper's gamma.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, lam: float = 16.0, samples: int = 16, sharpness: float = 16.0, margin: float = 8.0) -> None:
        super().__init__(samples)
        if not (lam >= 0 and sharpness > 0 and margin > 0):
            raise ConfigError(
                f"lam, sharpness and margin are {lam!r}, {sharpness!r} and {margin!r}; give numbers, lam >= 0 and the "
                "others > 0"
            )
        self.lam = lam
        self.sharpness = sharpness
        self.margin = margin

    def forward(
        self,
        module: nn.Module,
        images: Tensor,
        labels: Tensor,
        noise: Tensor,
        deviation: float,
        epsilon: float | Tensor = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return loss and average softmax; ``epsilon`` plays no part. See :class:`SampledLoss`."""
        logits, index = self.logits(module, images, noise), labels[:, None]
        average = logits.softmax(2).mean(1)
        sharp = (self.sharpness * logits).softmax(2).mean(1)
        own, other = sharp.gather(1, index), sharp.scatter(1, index, -1.0).amax(1, keepdim=True)
        with torch.no_grad():
            distance = torch.special.ndtri(own) - torch.special.ndtri(other)
            counts = (own > other) & distance.isfinite() & (distance < self.margin)
        # Where the hinge does not count its gradient is not even finite: Phi^-1 has none at 0 and 1.
        own, other = torch.where(counts, own, 0.5), torch.where(counts, other, 0.5)
        hinge = self.margin - torch.special.ndtri(own) + torch.special.ndtri(other)
        weight = self.lam_on(images.device).to(hinge.dtype) * (deviation / 2)
        # As published: where no copy has the label, the logarithm stays finite.
        losses = -(average.gather(1, index) + 1e-10).log() + weight * torch.where(counts, hinge, 0.0)
        return losses.mean(), average.detach()
