"""Per-row EMMA loss: the margin of every class trained at once (Hu et al. 2023, Section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.ops.all_margins import rises, with_certified


def raised(logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor) -> Tensor:
    """Return the logits (B, m) less the label's, each raised by as much as the ball allows, but no further than to 0.

    With y_i = f_i - f_y for the label y and m_i = ``lipschitz * differences[y, i]`` that is y_i + e_i epsilon m_i,
    where e_i = clip(-y_i / (epsilon m_i), 0.01, 1) is a constant to autograd.

    Arguments are those of :func:`gloro_fast.ops.all_margins.rises`.
    """
    logits, rise = rises(logits, differences, lipschitz, epsilon, labels)
    gap = logits - logits.gather(1, labels[:, None])
    with torch.no_grad():
        # Where there is no rise the share of it does not matter, but 0 / 0 would. The label's own has no gradient.
        share = torch.where(rise > 0, -gap / rise, 1.0).clamp(0.01, 1.0).scatter(1, labels[:, None], 0.0)
    return gap + share * rise


def emma_reference(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
) -> Tensor:
    """Return the loss per row, in plain PyTorch: the cross entropy of the logits of :func:`raised`.

    Where the cross entropy with bottom only sees the one class that is nearest to the prediction, this one pushes all
    that threaten the label.

    Arguments are those of :func:`gloro_fast.ops.all_margins.rises`.

    Returns:
        (B,) losses of the promoted dtype of the arguments, at least float32, with gradients to ``logits``,
        ``differences`` and ``lipschitz``.
    """
    return F.cross_entropy(raised(logits, differences, lipschitz, epsilon, labels), labels, reduction="none")


def emma(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, prediction, certified) per row; see :func:`emma_reference` and ``with_certified``."""
    return with_certified(emma_reference, logits, differences, lipschitz, epsilon, labels)
