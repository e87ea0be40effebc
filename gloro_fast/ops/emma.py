"""Per-row EMMA loss: the margin of every class trained at once (Hu et al. 2023, Section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.ops.margin import margin


def emma_reference(logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float, labels: Tensor) -> Tensor:
    """Give the loss per row, in plain PyTorch.

    With y_i = f_i - f_y for the label y and m_i = ``lipschitz * differences[y, i]``, each class is raised by as much as
    the ball allows, but no further than to a tie with the label's: e_i = clip(-y_i / (epsilon m_i), 0.01, 1), a
    constant to autograd, and the loss is CE(y_i + e_i epsilon m_i, y). Where the cross entropy with bottom only sees
    the one class that is nearest to the prediction, this one pushes all that threaten the label.

    Args:
        logits: (B, m) logits f of a floating dtype, m >= 2.
        differences: (m, m), ||w_i - w_j||_2 of the rows of the last layer.
        lipschitz: scalar tensor, the Lipschitz constant of everything before the last layer.
        epsilon: l2 radius, >= 0, in units of the input.
        labels: (B,) int64 in [0, m); the caller has checked them.

    Returns:
        (B,) losses of the promoted dtype of the arguments, at least float32, with gradients to ``logits``,
        ``differences`` and ``lipschitz``.
    """
    dtype = torch.promote_types(torch.promote_types(logits.dtype, differences.dtype), torch.float32)
    logits, differences, lipschitz = logits.to(dtype), differences.to(dtype), lipschitz.to(dtype)
    gap = logits - logits.gather(1, labels[:, None])
    rise = epsilon * (lipschitz * differences[labels])
    with torch.no_grad():
        # Where there is no rise the share of it does not matter, but 0 / 0 would. The label's own has no gradient.
        share = torch.where(rise > 0, -gap / rise, 1.0).clamp(0.01, 1.0).scatter(1, labels[:, None], 0.0)
    return F.cross_entropy(gap + share * rise, labels, reduction="none")


def emma(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give (loss, prediction, certified) per row, as ``margin_loss`` does for the criteria over m + 1 logits.

    Arguments and loss are those of :func:`emma_reference`; ``prediction`` (B,) int64 is the first index of the largest
    logit, ``certified`` (B,) bool says whether the radius of ``margin`` is above epsilon, strictly.
    """
    with torch.no_grad():
        _, prediction, radius = margin(logits, differences, lipschitz, epsilon)
    return emma_reference(logits, differences, lipschitz, epsilon, labels), prediction, radius > epsilon
