"""What losses of the margins of all classes share: how far the ball raises each logit, and what is certified."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gloro_fast.ops.margin_op import margin
from gloro_fast.ops.scalar import constant

Reference = Callable[[Tensor, Tensor, Tensor, float | Tensor, Tensor], Tensor]


def rises(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits and epsilon K D_yi for the label y, both (B, m) of the promoted dtype, at least float32.

    Args:
        logits: (B, m) logits f of a floating dtype, m >= 2.
        differences: (m, m), D_ij, zero on the diagonal.
        lipschitz: scalar tensor K.
        epsilon: l2 radius, >= 0, in units of the input: a number or a 0-dim tensor, a constant to autograd.
        labels: (B,) int64 in [0, m); the caller has checked them.
    """
    dtype = torch.promote_types(torch.promote_types(logits.dtype, differences.dtype), torch.float32)
    return logits.to(dtype), constant(epsilon) * (lipschitz.to(dtype) * differences.to(dtype)[labels])


def with_certified(
    reference: Reference,
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, prediction, certified) per row, as ``margin_loss`` does for the criteria over m + 1 logits.

    The loss is that of ``reference``; ``prediction`` (B,) int64 is the first index of the largest logit, ``certified``
    (B,) bool says whether the radius of ``margin`` is above epsilon, strictly.
    """
    with torch.no_grad():
        _, prediction, radius = margin(logits, differences, lipschitz, epsilon)
    return reference(logits, differences, lipschitz, epsilon, labels), prediction, radius > epsilon
