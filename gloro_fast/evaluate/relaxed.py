"""Certificates of relaxed top-k and affinity robustness (Leino and Fredrikson 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.ops.relaxed_margin_op import Relaxation, read_relaxation, relaxed_radii


@dataclass(frozen=True)
class RelaxedCertificate:
    """What is certified of the likeliest classes of each image, of a batch of B, as sets.

    Attributes:
        classes: (B, K) int64, the K likeliest in their order.
        radii: (B, K) float64, at index k - 1 the l2 radius within which the first k stay the k likeliest, in any order;
            0 where that is not certified, or the set is not allowed.
        epsilon: the l2 radius asked for.
        lipschitz: K of everything before the head, or of all layers without one.
        method: the method that found it, with "(estimate)" where it is none but that.
    """

    classes: Tensor
    radii: Tensor
    epsilon: float
    lipschitz: float
    method: str

    @property
    def radius(self) -> Tensor:
        """(B,) float64, the radius of relaxed robustness: the largest of ``radii``."""
        return self.radii.amax(dim=1)

    @property
    def certified(self) -> Tensor:
        """(B,) bool, ``radius > epsilon``, strictly."""
        return self.radius > self.epsilon

    @property
    def size(self) -> Tensor:
        """(B,) int64, the number of classes in the largest set certified at ``epsilon``; 0 where none is."""
        ranks = torch.arange(1, self.radii.shape[1] + 1, device=self.radii.device)
        return ((self.radii > self.epsilon) * ranks).amax(dim=1)

    def holds(self, labels: Tensor) -> Tensor:
        """Return whether the labels (B,) are in the largest certified set, (B,) bool; its mean is the relaxed VRA."""
        ranks = torch.arange(self.classes.shape[1], device=self.classes.device)
        return ((self.classes == labels[:, None].to(self.classes)) & (ranks < self.size[:, None])).any(dim=1)


def certify_relaxed(
    net: GloRoNet, images: Tensor, relaxation: Relaxation, epsilon: float | None = None
) -> RelaxedCertificate:
    """Certify a batch for relaxed top-k or affinity robustness, by the bound that ``net.certify`` goes by.

    The radii hold for real arithmetic on the logits as computed. That for k = 1 is the ordinary one.

    Args:
        net: the net.
        images: (B, *input_shape) of the net's dtype.
        relaxation: k, less than the number of classes; or affinity sets of class indices, such as ``[{3, 5}, {1, 9}]``,
            where a set of likeliest classes is allowed if it is part of one of them, or a single class.
        epsilon: l2 radius >= 0; the net's own by default.

    Raises:
        ConfigError: the relaxation cannot be used, or does not fit the classes.
        DataError, StaleBoundError: as ``net.certify`` does.
    """
    most, members = read_relaxation(relaxation)
    found = net.certify(images, epsilon)
    classes, radii = relaxed_radii(found.logits, net.difference_bounds, found.lipschitz, most, members)
    return RelaxedCertificate(classes, radii, found.epsilon, found.lipschitz, found.method)
