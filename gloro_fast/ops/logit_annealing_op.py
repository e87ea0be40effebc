"""Per-row logit annealing loss, LA (Lai et al. 2025)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.ops.all_margins import with_certified
from gloro_fast.ops.emma_op import raised


def logit_annealing_reference(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    labels: Tensor,
    temperature: float = 0.75,
    offset: float = 2.0,
    power: float = 5.0,
) -> Tensor:
    """Return -T (1 - p_y)^beta log p_y per row, in plain PyTorch.

    p = softmax((z - xi e_y) / T), with z the logits raised within the ball as EMMA raises them
    (:func:`gloro_fast.ops.emma_op.raised`), which the authors' code does too where not all layers are orthogonal; with
    epsilon = 0 they are f, as in the paper. The factor anneals what cross entropy gives to points whose margin exceeds
    the offset xi, so that the capacity of the net goes to the others.

    Args:
        logits: (B, m) logits f; this and the next four are those of :func:`gloro_fast.ops.all_margins.rises`.
        differences: (m, m), D_ij.
        lipschitz: scalar tensor K.
        epsilon: l2 radius, >= 0.
        labels: (B,) int64 in [0, m).
        temperature: T, > 0.
        offset: xi, in units of the logits.
        power: beta, >= 0; 0 for cross entropy with offset and temperature.

    Returns:
        (B,) losses of the promoted dtype of the arguments, at least float32, with gradients to ``logits``,
        ``differences`` and ``lipschitz``.
    """
    z = raised(logits, differences, lipschitz, epsilon, labels)
    offsets = torch.zeros_like(z).scatter(1, labels[:, None], offset)
    surprise = F.cross_entropy((z - offsets) / temperature, labels, reduction="none")
    return temperature * (-torch.expm1(-surprise)) ** power * surprise


def logit_annealing(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    labels: Tensor,
    temperature: float = 0.75,
    offset: float = 2.0,
    power: float = 5.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, prediction, certified) per row; see :func:`logit_annealing_reference` and ``with_certified``."""
    reference = partial(logit_annealing_reference, temperature=temperature, offset=offset, power=power)
    return with_certified(reference, logits, differences, lipschitz, epsilon, labels)
