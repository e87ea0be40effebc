"""Per-row cross entropy over m + 1 logits with bottom never the label (Leino et al. 2021, Section 4.1)."""

from __future__ import annotations

from torch import Tensor


def cross_entropy_reference(logits: Tensor, labels: Tensor) -> Tensor:
    """Return LSE(f_bar) - f_y per row, in plain PyTorch.

    Args:
        logits: (B, m + 1) of a floating dtype, bottom last; half types are computed in float32.
        labels: (B,) int64 in [0, m), or (B, m) of a floating dtype: a weight p for each class, so that the loss is
            sum_i p_i (LSE(f_bar) - f_i).

    Returns:
        (B,) losses, of the logits' dtype or float32 if that is a half type.
    """
    logits = logits if logits.itemsize >= 4 else logits.float()
    if labels.is_floating_point():
        weights = labels.to(logits.dtype)
        return weights.sum(dim=1) * logits.logsumexp(dim=1) - (weights * logits[:, :-1]).sum(dim=1)
    true_logit = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.logsumexp(dim=1) - true_logit


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy per row; see ``cross_entropy_reference``."""
    return cross_entropy_reference(logits, labels)
