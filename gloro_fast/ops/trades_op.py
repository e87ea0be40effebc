"""Per-row TRADES loss of a GloRo net, in closed form (Leino et al. 2021, Definition 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def trades_reference(logits: Tensor, labels: Tensor, lam: float | Tensor, robust: str = "kl") -> Tensor:
    """Return CE(f, y) + lam * robust term per row, in plain PyTorch.

    Write p = softmax f over the m classes, 0 on bottom, and q = softmax f_bar over all m + 1. The paper prints
    KL(q || p), which is infinite; meant is KL(p || q). Since log p_i - log q_i = LSE(f_bar) - LSE(f) for every
    class i,

    - ``"kl"``: KL(p || q) = LSE(f_bar) - LSE(f) = softplus(f_bottom - LSE(f));
    - ``"ce"``: - sum_i p_i log q_i = LSE(f_bar) - sum_i p_i f_i.

    Neither form builds a softmax over m + 1 logits, and both stay finite for logits of any size.

    Args:
        logits: (B, m + 1) of a floating dtype, bottom last; half types are computed in float32.
        labels: (B,) int64 in [0, m), or (B, m) of a floating dtype: a weight p for each class, so that the loss is
            sum_i p_i times that of label i.
        lam: weight of the robust term, >= 0: a number or a 0-dim tensor.
        robust: ``"kl"`` or ``"ce"``.

    Returns:
        (B,) losses, of the logits' dtype or float32 if that is a half type.
    """
    logits = logits if logits.itemsize >= 4 else logits.float()
    classes, bottom = logits[:, :-1], logits[:, -1]
    lse = classes.logsumexp(dim=1)
    term = F.softplus(bottom - lse)
    if robust == "ce":
        term = term + lse - (classes.softmax(dim=1) * classes).sum(dim=1)
    if labels.is_floating_point():
        weights = labels.to(logits.dtype)
        return weights.sum(dim=1) * (lse + lam * term) - (weights * classes).sum(dim=1)
    true_logit = classes.gather(1, labels[:, None]).squeeze(1)
    return lse - true_logit + lam * term


def trades(logits: Tensor, labels: Tensor, lam: float | Tensor, robust: str = "kl") -> Tensor:
    """Return the TRADES loss per row; see ``trades_reference``."""
    return trades_reference(logits, labels, lam, robust)
