"""Per-row loss of Lipschitz margin training, LMT (Tsuzuku, Sato, Sugiyama 2018, Section 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.ops.margin import margin


def lmt_reference(logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float, labels: Tensor) -> Tensor:
    """Give CE(f_i + epsilon * K * D_yi, y) per row for the label y, in plain PyTorch: D_yy = 0, so y alone stays.

    For a net whose last layer is bounded like the others D_yi = sqrt(2), which is LMT as published: sqrt(2) K epsilon
    is added to every wrong logit.

    Args:
        logits: (B, m) logits f of a floating dtype, m >= 2.
        differences: (m, m), D_ij, zero on the diagonal.
        lipschitz: scalar tensor K.
        epsilon: l2 radius, >= 0, in units of the input.
        labels: (B,) int64 in [0, m); the caller has checked them.

    Returns:
        (B,) losses of the promoted dtype of the arguments, at least float32, with gradients to ``logits``,
        ``differences`` and ``lipschitz``.
    """
    dtype = torch.promote_types(torch.promote_types(logits.dtype, differences.dtype), torch.float32)
    rise = epsilon * (lipschitz.to(dtype) * differences.to(dtype)[labels])
    return F.cross_entropy(logits.to(dtype) + rise, labels, reduction="none")


def lmt(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give (loss, prediction, certified) per row, as ``margin_loss`` does for the criteria over m + 1 logits.

    Arguments and loss are those of :func:`lmt_reference`; ``prediction`` (B,) int64 is the first index of the largest
    logit, ``certified`` (B,) bool says whether the radius of ``margin`` is above epsilon, strictly.
    """
    with torch.no_grad():
        _, prediction, radius = margin(logits, differences, lipschitz, epsilon)
    return lmt_reference(logits, differences, lipschitz, epsilon, labels), prediction, radius > epsilon
