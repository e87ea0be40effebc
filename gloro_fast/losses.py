"""Training criteria of a GloRo net: over its m + 1 logits (Leino et al. 2021, Section 4.1), and EMMA."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.ops.cross_entropy import cross_entropy
from gloro_fast.ops.emma import emma
from gloro_fast.ops.margin_loss import margin_loss
from gloro_fast.ops.trades import trades


class MarginCriterion(nn.Module):
    """A criterion that a GloRo net can compute together with its margin, in one pass over the logits.

    Attributes:
        name: what ``gloro_fast.ops.margin_loss`` calls it.
        lam: weight of the robust term.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
    """

    name: str
    lam: float
    reduction: str

    def __init__(self, reduction: str) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f"reduction is {reduction!r}; choose 'mean', 'sum' or 'none'")
        self.reduction = reduction

    def with_margin(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give (loss, prediction, certified) per row from the m class logits; see ``gloro_fast.ops.margin_loss``."""
        return margin_loss(logits, differences, lipschitz, epsilon, labels, self.name, self.lam)

    def reduce(self, losses: Tensor) -> Tensor:
        """Reduce the losses (B,) of a batch as ``reduction`` says."""
        if self.reduction == "mean":
            return losses.mean()
        return losses.sum() if self.reduction == "sum" else losses


class CrossEntropyLoss(MarginCriterion):
    """Cross entropy over m + 1 logits with bottom never the label.

    It penalizes every point unless it is both classified correctly and certified at the net's epsilon.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
    """

    name = "ce"
    lam = 0.0

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the loss.

        Args:
            logits: (B, m + 1), bottom last, as ``GloRoNet`` returns them.
            labels: (B,) int64 in [0, m).

        Raises:
            DataError: labels of another type or shape, or (checked on the CPU) out of range.
        """
        check_labels(labels, len(logits), logits.shape[-1] - 1)
        return self.reduce(cross_entropy(logits, labels))

    def extra_repr(self) -> str:
        """Show the reduction."""
        return f"reduction={self.reduction!r}"


class TradesLoss(MarginCriterion):
    """TRADES for GloRo nets (Definition 3): cross entropy of f plus ``lam`` times a robust term.

    Args:
        lam: weight of the robust term, >= 0; may be set between steps.
        robust: ``"kl"`` for KL(softmax f || softmax f_bar), ``"ce"`` for the cross entropy of softmax f_bar
            under softmax f, gradient through both (the authors' ReLU rows).
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
    """

    def __init__(self, lam: float, robust: str = "kl", reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not (isinstance(lam, int | float) and math.isfinite(lam) and lam >= 0):
            raise ConfigError(f"lam is {lam!r}; the weight of the robust term must be a number >= 0")
        if robust not in ("kl", "ce"):
            raise ConfigError(f"robust is {robust!r}; choose 'kl' or 'ce'")
        self.lam = float(lam)
        self.robust = robust
        self.name = f"trades-{robust}"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the loss; arguments and errors as for ``CrossEntropyLoss``."""
        check_labels(labels, len(logits), logits.shape[-1] - 1)
        return self.reduce(trades(logits, labels, self.lam, self.robust))

    def extra_repr(self) -> str:
        """Show lambda, the robust term and the reduction."""
        return f"lam={self.lam:g}, robust={self.robust!r}, reduction={self.reduction!r}"


class AllMarginsLoss(MarginCriterion):
    """A criterion of the margins K D_yi of all classes, which the m + 1 logits do not have.

    Call ``net(x, labels, criterion)``.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
    """

    lam = 0.0
    op: Callable[[Tensor, Tensor, Tensor, float, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Gives loss, prediction and certified or not per row from the class logits, D, K, epsilon and labels."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def with_margin(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give (loss, prediction, certified) per row."""
        return type(self).op(logits, differences, lipschitz, epsilon, labels)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Refuse: logits do not tell the margins.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{type(self).__name__} needs the margins of all classes; call net(x, labels, criterion)")

    def extra_repr(self) -> str:
        """Show the reduction."""
        return f"reduction={self.reduction!r}"


class EmmaLoss(AllMarginsLoss):
    """EMMA (Hu et al. 2023): cross entropy with every class raised by what the ball allows it, up to a tie.

    Arguments and use are those of :class:`AllMarginsLoss`; the loss per row is
    ``gloro_fast.ops.emma``.
    """

    name = "emma"
    op = staticmethod(emma)


def check_labels(labels: Tensor, rows: int, classes: int) -> None:
    """Refuse labels that cannot be the classes of a batch; bottom is no label.

    On an accelerator the range is asserted by the device itself: reading it here would wait for the device at
    every step.

    Args:
        labels: what was given.
        rows: images in the batch.
        classes: m.

    Raises:
        DataError: names what is wrong with the labels.
    """
    if not isinstance(labels, Tensor):
        raise DataError(f"labels are a {type(labels).__name__}; give a tensor of class indices")
    if labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}; convert them to class indices with labels.long()")
    if labels.shape != (rows,):
        raise DataError(f"labels have shape {tuple(labels.shape)}; give one label for each of the {rows} images")
    message = f"labels must lie in [0, {classes})"
    if torch.compiler.is_compiling() or labels.device.type != "cpu":
        out_of_range = ((labels < 0) | (labels >= classes)).any()
        torch._assert_async(~out_of_range, f"{message}; bottom is never a label")
    elif rows:
        lowest, highest = (int(label) for label in labels.aminmax())
        if lowest < 0 or highest >= classes:
            raise DataError(f"{message} but go from {lowest} to {highest}; bottom is never a label")
