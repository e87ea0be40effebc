"""Certificates of relaxed top-k and affinity robustness (Leino and Fredrikson 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.ops.relaxed_margin_op import Relaxation, allowed_sets, check_sets, read_relaxation


@dataclass(frozen=True)
class RelaxedCertificate:
    """What is certified of the likeliest classes of each image, of a batch of B, as sets.

    Attributes:
        classes: (B, K) int64, the K likeliest in their order.
        allowed: (B, K) bool, at index k - 1 whether the relaxation allows the set of the first k.
        radii: (B, K) float64, at index k - 1 the l2 radius within which the first k stay the k likeliest, in any order;
            0 where that is not certified, or the set is not allowed.
        epsilon: the l2 radius asked for.
        lipschitz: K of everything before the head, or of all layers without one.
        method: the method that found it, with "(estimate)" where it is none but that.
        executed: whether the radii cover the rounding of the net's own forward pass.
        real_radii: (B, K) float64, the radii for real arithmetic on the logits; ``radii`` itself if not executed, else
            never below them.
    """

    classes: Tensor
    allowed: Tensor
    radii: Tensor
    epsilon: float
    lipschitz: float
    method: str
    executed: bool
    real_radii: Tensor

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
        return self._size(self.epsilon)

    def sets(self, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return of each image one set with its radius: the largest certified at ``epsilon``, else the most certain.

        Returns:
            size: (B,) int64, it is the first so many of ``classes``.
            radius: (B,) float64, that of this set.
        """
        largest = self._size(epsilon)
        size = torch.where(largest > 0, largest, self.radii.argmax(dim=1) + 1)
        return size, self.radii.gather(1, size[:, None] - 1).squeeze(1)

    def holds(self, labels: Tensor) -> Tensor:
        """Return whether the labels (B,) are in the largest certified set, (B,) bool; its mean is the relaxed VRA."""
        return self.radius_of(labels) > self.epsilon

    def radius_of(self, labels: Tensor, real: bool = False) -> Tensor:
        """Return the radius within which each label (B,) is certified to be in a set of likeliest classes.

        Args:
            labels: (B,) int64.
            real: by ``real_radii``.

        Returns:
            (B,) float64, the largest radius of a set with the label; 0 where it is in none.
        """
        return torch.where(self._with(labels), self.real_radii if real else self.radii, 0.0).amax(dim=1)

    def contains(self, labels: Tensor) -> Tensor:
        """Return whether the labels (B,) are in a set of likeliest classes that is allowed, certified or not."""
        return (self._with(labels) & self.allowed).any(dim=1)

    def _size(self, epsilon: float) -> Tensor:
        ranks = torch.arange(1, self.radii.shape[1] + 1, device=self.radii.device)
        return ((self.radii > epsilon) * ranks).amax(dim=1)

    def _with(self, labels: Tensor) -> Tensor:
        """Return for each k whether the first k have the label, (B, K) bool."""
        return (self.classes == labels[:, None].to(self.classes)).cumsum(dim=1) > 0


def certify_relaxed(
    net: GloRoNet, images: Tensor, relaxation: Relaxation, epsilon: float | None = None, executed: bool = False
) -> RelaxedCertificate:
    """Certify a batch for relaxed top-k or affinity robustness, by the bound that ``net.certify`` goes by.

    The radii hold for real arithmetic on the logits as computed, or, if executed, for the program that runs. That for
    k = 1 is the ordinary one, bit for bit.

    Args:
        net: the net.
        images: (B, *input_shape) of the net's dtype.
        relaxation: k, less than the number of classes; or affinity sets of class indices, such as ``[{3, 5}, {1, 9}]``,
            where a set of likeliest classes is allowed if it is part of one of them, or a single class.
        epsilon: l2 radius >= 0; the net's own by default.
        executed: cover the rounding of the net's own forward pass: see ``net.certify``.

    Raises:
        ConfigError: the relaxation cannot be used, or does not fit the classes.
        GloroFastError: as ``net.certify`` does.
    """
    most, members = read_relaxation(relaxation)
    check_sets(most, members, net.num_classes)
    found, classes, radii, real = net.certify_sets(images, most, epsilon, executed)
    allowed = allowed_sets(classes, members)
    return RelaxedCertificate(
        classes,
        allowed,
        torch.where(allowed, radii, 0.0),
        found.epsilon,
        found.lipschitz,
        found.method,
        executed,
        torch.where(allowed, real, 0.0),
    )
