"""Per-row loss of Lipschitz margin training, LMT (Tsuzuku, Sato, Sugiyama 2018, Section 4.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from gloro_fast.ops.all_margins import rises, with_certified


def lmt_reference(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
) -> Tensor:
    """Return CE(f_i + epsilon * K * D_yi, y) per row for the label y, in plain PyTorch: D_yy = 0, so y alone stays.

    For a net whose last layer is bounded like the others D_yi = sqrt(2), which is LMT as published: sqrt(2) K epsilon
    is added to every wrong logit.

    Arguments are those of :func:`gloro_fast.ops.all_margins.rises`.

    Returns:
        (B,) losses of the promoted dtype of the arguments, at least float32, with gradients to ``logits``,
        ``differences`` and ``lipschitz``.
    """
    logits, rise = rises(logits, differences, lipschitz, epsilon, labels)
    return F.cross_entropy(logits + rise, labels, reduction="none")


def lmt(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, prediction, certified) per row; see :func:`lmt_reference` and ``with_certified``."""
    return with_certified(lmt_reference, logits, differences, lipschitz, epsilon, labels)
