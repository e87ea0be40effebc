"""What a certificate says of a batch of images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Certificate:
    """What is certified of each image of a batch of B, against every l2 perturbation of norm <= epsilon.

    Attributes:
        prediction: (B,) int64, argmax of f.
        certified: (B,) bool, ``radius > epsilon``, strictly.
        radius: (B,) float64, in units of the input; 0 for ties and non-finite logits.
        epsilon: the l2 radius asked for.
        lipschitz: K of everything before the head, or of all layers without one.
        method: the method that found K, with "(estimate)" where it is none but that.
        logits: (B, m) f as computed, at least float32.
        executed: whether the radius covers the rounding of the net's own forward pass.
        real_radius: (B,) float64, the radius for real arithmetic on ``logits``; ``radius`` itself if not executed,
            else never below it.
    """

    prediction: Tensor
    certified: Tensor
    radius: Tensor
    epsilon: float
    lipschitz: float
    method: str
    logits: Tensor
    executed: bool
    real_radius: Tensor
