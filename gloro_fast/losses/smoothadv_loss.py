"""SmoothADV (Salman et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.losses.sampled_loss import SampledLoss


class SmoothAdvLoss(SampledLoss):
    """SmoothADV: cross entropy of f on noisy copies of images that attack the smoothed classifier.

    Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019
    (SmoothAdv_PGD). The attack maximizes -log of the softmax of f for the label, averaged
    over the copies, over the l2 ball of radius epsilon, by projected gradient ascent from the image with steps of
    2 epsilon / ``steps`` and pixels clipped to [0, 1]. The very noise of the attack is trained with.
    As in the authors' code, f is attacked as it is in evaluation: BatchNorm goes by its statistics and leaves them, and
    Dropout drops nothing.

    Args:
        samples: noisy copies of each image, the paper's m_train.
        steps: gradient steps of the attack, the paper's T, >= 1.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, samples: int = 4, steps: int = 10) -> None:
        super().__init__(samples)
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"steps is {steps!r}; the gradient steps of the attack must be a whole number >= 1")
        self.steps = steps

    def forward(
        self,
        module: nn.Module,
        images: Tensor,
        labels: Tensor,
        noise: Tensor,
        deviation: float = 0.0,
        epsilon: float | Tensor = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return loss and average softmax; of the noise its draws alone count. See :class:`SampledLoss`."""
        logits = self.logits(module, self.attacked(module, images, labels, noise, epsilon), noise)
        copies = labels[:, None].expand(-1, self.samples)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), copies.flatten())
        return loss, logits.detach().softmax(2).mean(1)

    def attacked(
        self, module: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, epsilon: float | Tensor
    ) -> Tensor:
        """Return images (B, C, H, W) within ``epsilon`` of those given; arguments as for :meth:`forward`.

        The module is in evaluation meanwhile, and then every part of it in the mode in which it was.
        """
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            return self._ascended(module, images, labels, noise, epsilon)
        finally:
            # Parents first: each call reaches the children too.
            for part, training in modes:
                if part.training != training:
                    part.train(training)

    def _ascended(
        self, module: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, epsilon: float | Tensor
    ) -> Tensor:
        found = images
        for _ in range(self.steps):
            found = found.detach().requires_grad_()
            own = self.logits(module, found, noise).softmax(2).mean(1).gather(1, labels[:, None])
            (gradient,) = torch.autograd.grad(own.clamp_min(1e-20).log().sum(), found)
            # A gradient of 0 stays 0, where the authors' code draws a direction.
            moved = (found.detach() - 2 * epsilon / self.steps * _direction(gradient)).clamp(0, 1)
            shift = moved - images
            found = images + torch.where(_norm(shift) > epsilon, epsilon * _direction(shift), shift)
        return found.detach()


def _norm(images: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(images, dim=tuple(range(1, images.ndim)), keepdim=True)
    return found


def _direction(images: Tensor) -> Tensor:
    return images / _norm(images).clamp_min(torch.finfo(images.dtype).tiny)
