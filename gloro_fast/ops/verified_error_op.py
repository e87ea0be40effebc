"""Per-row loss of verified errors: EMMA, and a smooth count of the points that are not certified."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.ops.all_margins import rises, with_certified
from gloro_fast.ops.emma_op import emma_reference


def verified_error_reference(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    labels: Tensor,
    lam: float | Tensor,
) -> Tensor:
    """Return (1 - lambda) EMMA + lambda (1 - p_y) per row, in plain PyTorch.

    p = softmax(z), where z are the logits with that of every class i raised by all that the ball allows it against
    the label y, epsilon K D_yi. So 1 - p_y goes from 1 short of the radius to 0 beyond it, and is at least 1/2
    wherever y is not certified by this K: twice its mean bounds the verified error, the share of points that are not
    both classified correctly and certified. EMMA (:func:`gloro_fast.ops.emma_reference`) bounds that share too, but
    there a point far from its certificate pulls at least as hard as one that nearly has it; here it hardly pulls. With
    lambda = 1 training may give up a class for the points of another that resembles it, which the rest of EMMA keeps.

    Args:
        logits: (B, m) logits f; this and the next four are those of :func:`gloro_fast.ops.all_margins.rises`.
        differences: (m, m), D_ij.
        lipschitz: scalar tensor K.
        epsilon: l2 radius, >= 0.
        labels: (B,) int64 in [0, m).
        lam: lambda in [0, 1], a number or a 0-dim tensor, a constant to autograd.

    Returns:
        (B,) losses of the promoted dtype of the arguments, at least float32, with gradients to ``logits``,
        ``differences`` and ``lipschitz``.
    """
    emma = emma_reference(logits, differences, lipschitz, epsilon, labels)
    f, rise = rises(logits, differences, lipschitz, epsilon, labels)
    errors = -torch.expm1(-F.cross_entropy(f + rise, labels, reduction="none"))
    return (1 - lam) * emma + lam * errors


def verified_error(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    labels: Tensor,
    lam: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, prediction, certified) per row; see :func:`verified_error_reference` and ``with_certified``."""
    reference = partial(verified_error_reference, lam=lam)
    return with_certified(reference, logits, differences, lipschitz, epsilon, labels)
