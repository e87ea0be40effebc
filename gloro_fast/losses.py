"""Training criteria over the m + 1 logits of a GloRo net (Leino et al. 2021, Section 4.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.ops.cross_entropy import cross_entropy
from gloro_fast.ops.trades import trades


class CrossEntropyLoss(nn.Module):
    """Cross entropy over m + 1 logits with bottom never the label.

    It penalizes every point unless it is both classified correctly and certified at the net's epsilon.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = _checked_reduction(reduction)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the loss.

        Args:
            logits: (B, m + 1), bottom last, as ``GloRoNet`` returns them.
            labels: (B,) int64 in [0, m).

        Raises:
            DataError: labels of another type or shape, or (checked on the CPU) out of range.
        """
        check_labels(labels, logits)
        return _reduce(cross_entropy(logits, labels), self.reduction)

    def extra_repr(self) -> str:
        """Show the reduction."""
        return f"reduction={self.reduction!r}"


class TradesLoss(nn.Module):
    """TRADES for GloRo nets (Definition 3): cross entropy of f plus ``lam`` times a robust term.

    Args:
        lam: weight of the robust term, >= 0; may be set between steps.
        robust: ``"kl"`` for KL(softmax f || softmax f_bar), ``"ce"`` for the cross entropy of softmax f_bar
            under softmax f, gradient through both (the authors' ReLU rows).
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
    """

    def __init__(self, lam: float, robust: str = "kl", reduction: str = "mean") -> None:
        super().__init__()
        if not (math.isfinite(lam) and lam >= 0):
            raise ConfigError(f"lam is {lam}; the weight of the robust term must be a number >= 0")
        if robust not in ("kl", "ce"):
            raise ConfigError(f"robust is {robust!r}; choose 'kl' or 'ce'")
        self.lam = float(lam)
        self.robust = robust
        self.reduction = _checked_reduction(reduction)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the loss; arguments and errors as for ``CrossEntropyLoss``."""
        check_labels(labels, logits)
        return _reduce(trades(logits, labels, self.lam, self.robust), self.reduction)

    def extra_repr(self) -> str:
        """Show lambda, the robust term and the reduction."""
        return f"lam={self.lam:g}, robust={self.robust!r}, reduction={self.reduction!r}"


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Refuse labels that cannot be classes of ``logits`` (B, m + 1); bottom is no label.

    The range is read on the CPU only: on an accelerator that would wait for the device at every step, so
    there the device itself asserts it.

    Raises:
        DataError: names what is wrong with the labels.
    """
    classes = logits.shape[-1] - 1
    if labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}; convert them to class indices with labels.long()")
    if labels.shape != logits.shape[:1]:
        raise DataError(
            f"labels have shape {tuple(labels.shape)} but the logits {tuple(logits.shape)}; give one label a row"
        )
    out_of_range = ((labels < 0) | (labels >= classes)).any()
    message = f"labels must lie in [0, {classes})"
    if torch.compiler.is_compiling() or labels.device.type != "cpu":
        torch._assert_async(~out_of_range, f"{message}; bottom is never a label")
    elif out_of_range:
        raise DataError(f"{message} but go from {int(labels.min())} to {int(labels.max())}; bottom is never a label")


def _checked_reduction(reduction: str) -> str:
    if reduction not in ("mean", "sum", "none"):
        raise ConfigError(f"reduction is {reduction!r}; choose 'mean', 'sum' or 'none'")
    return reduction


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    return loss.sum() if reduction == "sum" else loss
