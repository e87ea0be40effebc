"""The bottom logit, the prediction and the certified radius of a batch (Leino et al. 2021, Section 2.2, Appendix A.2).

This is the differentiable form that training uses, rounded to nearest. Certificates are signed by
``gloro_fast.certify``, in float64 with directed rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def margin_reference(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Give (bottom, prediction, radius), in plain PyTorch.

    With j = argmax f and K_ij = ``lipschitz * differences[j, i]``:
    bottom = max over i != j of (f_i + epsilon K_ij), radius = min over i != j of (f_j - f_i) / K_ij.
    The two agree bit for bit: ``bottom < f_j`` exactly where ``radius > epsilon``; where rounding alone would
    part them, the radius decides and bottom moves to the neighbouring number. A tie at the top, a non-finite
    logit and a non-finite K_ij give radius 0. K_ij = 0 with f_j > f_i puts no limit on the radius.

    Args:
        logits: (B, m) logits f of a floating dtype, m >= 2.
        differences: (m, m), ||w_i - w_j||_2 of the rows of the last layer.
        lipschitz: scalar tensor, the Lipschitz constant of everything before the last layer.
        epsilon: l2 radius, >= 0, in units of the input.

    Returns:
        bottom: (B,), with gradients to the runner-up's logit, ``differences`` and ``lipschitz``.
        prediction: (B,) int64, the first index of the largest logit.
        radius: (B,), constant to autograd.
        bottom and radius have the promoted dtype of the arguments, at least float32.
    """
    dtype = torch.promote_types(torch.promote_types(logits.dtype, differences.dtype), torch.float32)
    logits, differences, lipschitz = logits.to(dtype), differences.to(dtype), lipschitz.to(dtype)
    with torch.no_grad():
        prediction = logits.argmax(dim=1)
        top = logits.gather(1, prediction[:, None])
        slope = lipschitz * differences[prediction]
        gap = top - logits
        other = torch.arange(logits.shape[1], device=logits.device) != prediction[:, None]
        finite = logits.isfinite().all(dim=1) & slope.isfinite().all(dim=1) & gap.isfinite().all(dim=1)
        radius = torch.where(gap > 0, gap / slope, 0.0).masked_fill(~other, torch.inf).amin(dim=1)
        radius = torch.where(finite, radius, 0.0)
        runner_up = (logits + epsilon * slope).masked_fill(~other, -torch.inf).argmax(dim=1)

    rows = torch.arange(len(logits), device=logits.device)
    bottom = logits[rows, runner_up] + epsilon * (lipschitz * differences[prediction, runner_up])
    return _reconcile(bottom, top.squeeze(1), radius > epsilon), prediction, radius


def margin(logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Give (bottom, prediction, radius); see ``margin_reference``."""
    return margin_reference(logits, differences, lipschitz, epsilon)


def _reconcile(bottom: Tensor, top: Tensor, certified: Tensor) -> Tensor:
    """Move ``bottom`` strictly below ``top`` where certified and strictly above it elsewhere, gradient kept."""
    with torch.no_grad():
        below = torch.nextafter(top, torch.full_like(top, -torch.inf))
        above = torch.nextafter(top, torch.full_like(top, torch.inf))
        target = torch.where(certified, torch.minimum(bottom, below), torch.maximum(bottom, above))
        finite = bottom.isfinite()
    # The difference is 0: it carries the gradient, the value is the target's to the last bit.
    return target + torch.where(finite, bottom - bottom.detach(), 0.0)
