"""Training criteria of a GloRo net: over its m + 1 logits (Leino et al. 2021, Section 4.1), and EMMA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.ops.cross_entropy_op import cross_entropy
from gloro_fast.ops.emma_op import emma
from gloro_fast.ops.labels import check_labels as check_labels
from gloro_fast.ops.lmt_op import lmt
from gloro_fast.ops.margin_loss_op import CRITERIA, margin_loss
from gloro_fast.ops.margin_op import margin
from gloro_fast.ops.scalar import Scalar
from gloro_fast.ops.trades_op import trades


class MarginCriterion(nn.Module):
    """A criterion that a GloRo net can compute together with its margin, in one pass over the logits.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
        weight: (m,) of a floating dtype, what the loss of a row is multiplied by for each class; as in PyTorch the mean
            over class indices is divided by the sum of the weights.
        ignore_index: a label whose rows have no loss, and do not count in the mean; without it every label must be a
            class.

    Attributes:
        name: what ``gloro_fast.ops.margin_loss`` calls it.
        reduction, weight, ignore_index: as given; the weight is a buffer.

    Raises:
        ConfigError: an argument cannot be used.
    """

    name: str
    reduction: str
    weight: Tensor | None
    ignore_index: int | None

    def __init__(self, reduction: str, weight: Tensor | None = None, ignore_index: int | None = None) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f"reduction is {reduction!r}; choose 'mean', 'sum' or 'none'")
        if weight is not None and not (isinstance(weight, Tensor) and weight.ndim == 1 and weight.is_floating_point()):
            raise ConfigError(f"weight is {weight!r:.60}; give a tensor (m,) of a number for each class")
        if ignore_index is not None and not isinstance(ignore_index, int):
            raise ConfigError(f"ignore_index is {ignore_index!r}; give a whole number")
        self.reduction = reduction
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self._lam = Scalar(0.0)

    @property
    def lam(self) -> float:
        """The weight of the robust term. Captured graphs of training steps follow it when it is set."""
        return self._lam.value

    @lam.setter
    def lam(self, value: float) -> None:
        self._lam.value = value

    def lam_on(self, device: torch.device) -> Tensor:
        """Return lambda as kernels read it: a 0-dim float64 tensor on ``device``."""
        return self._lam.read(device)

    def is_mean_of_margin_loss(self, labels: Tensor) -> bool:
        """Whether the loss of ``labels`` is the mean of what ``gloro_fast.ops.margin_loss`` gives for each row."""
        if self.name not in CRITERIA:
            return False
        weighed = self.weight is not None or self.ignore_index is not None
        return not weighed and self.reduction == "mean" and not labels.is_floating_point()

    def with_margin(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give (loss, prediction, certified) per row from the m class logits; see ``gloro_fast.ops.margin_loss``.

        Labels are class indices (B,), or probabilities (B, m); epsilon is a number or a 0-dim float64 tensor.
        """
        self._check_weight(logits.shape[-1])
        if labels.is_floating_point():
            bottom, prediction, radius = margin(logits, differences, lipschitz, epsilon)
            output = torch.cat([logits.to(bottom.dtype), bottom[:, None]], dim=1)
            return self.rows(output, self._weighed_probabilities(labels)), prediction, radius > epsilon
        known = self._known(labels)
        lam = self._lam.read(logits.device)
        loss, prediction, certified = margin_loss(logits, differences, lipschitz, epsilon, known, self.name, lam)
        return self._weighed(loss, labels), prediction, certified

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the loss (B,) of each row of m + 1 logits, unweighted."""
        raise NotImplementedError

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the loss.

        Args:
            logits: (B, m + 1), bottom last, as ``GloRoNet`` returns them.
            labels: (B,) int64 in [0, m), or (B, m) of a floating dtype: the probability of each class, as from mixup.
                The loss is linear in them.

        Raises:
            DataError: labels of another type or shape, or (checked on the CPU) out of range.
            ConfigError: the number of weights is not m.
        """
        classes = logits.shape[-1] - 1
        self._check_weight(classes)
        check_labels(labels, len(logits), classes, self.ignore_index, probabilities=True)
        if labels.is_floating_point():
            return self.reduce(self.rows(logits, self._weighed_probabilities(labels)))
        return self.reduce(self._weighed(self.rows(logits, self._known(labels)), labels))

    def reduce(self, losses: Tensor) -> Tensor:
        """Reduce the losses (B,) of a batch as ``reduction`` says."""
        if self.reduction == "mean":
            return losses.mean()
        return losses.sum() if self.reduction == "sum" else losses

    def extra_repr(self) -> str:
        """Show the reduction and what is ignored."""
        ignored = "" if self.ignore_index is None else f", ignore_index={self.ignore_index}"
        return f"reduction={self.reduction!r}{ignored}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lam = Scalar(self._lam.value)  # a shallow copy has its own

    def _check_weight(self, classes: int) -> None:
        if self.weight is not None and len(self.weight) != classes:
            raise ConfigError(f"weight has {len(self.weight)} entries; give one for each of the {classes} classes")

    def _known(self, labels: Tensor) -> Tensor:
        """Give the labels with a class in place of the ignored ones."""
        return labels if self.ignore_index is None else labels.masked_fill(labels == self.ignore_index, 0)

    def _weighed_probabilities(self, labels: Tensor) -> Tensor:
        return labels if self.weight is None else labels * self.weight

    def _weighed(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Weigh the losses of class indices so that their plain mean is the weighted one."""
        if self.weight is None and self.ignore_index is None:
            return losses
        shares = torch.ones_like(losses) if self.weight is None else self.weight.to(losses.dtype)[self._known(labels)]
        if self.ignore_index is not None:
            ignored = labels == self.ignore_index
            losses, shares = losses.masked_fill(ignored, 0.0), shares.masked_fill(ignored, 0.0)
        if self.reduction == "mean":
            shares = shares * (len(labels) / shares.sum())
        return losses * shares


class CrossEntropyLoss(MarginCriterion):
    """Cross entropy over m + 1 logits with bottom never the label.

    It penalizes every point unless it is both classified correctly and certified at the net's epsilon. Labels may be
    probabilities; arguments are those of :class:`MarginCriterion`.
    """

    name = "ce"

    def __init__(
        self, reduction: str = "mean", *, weight: Tensor | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction, weight, ignore_index)

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the cross entropy of each row; see ``gloro_fast.ops.cross_entropy``."""
        return cross_entropy(logits, labels)


class TradesLoss(MarginCriterion):
    """TRADES for GloRo nets (Definition 3): cross entropy of f plus ``lam`` times a robust term.

    Labels may be probabilities.

    Args:
        lam: weight of the robust term, >= 0; may be set between steps.
        robust: ``"kl"`` for KL(softmax f || softmax f_bar), ``"ce"`` for the cross entropy of softmax f_bar
            under softmax f, gradient through both (the authors' ReLU rows).
        reduction: as for :class:`MarginCriterion`.
        weight: likewise; it multiplies both terms.
        ignore_index: likewise.
    """

    def __init__(
        self,
        lam: float,
        robust: str = "kl",
        reduction: str = "mean",
        *,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        if not (isinstance(lam, int | float) and math.isfinite(lam) and lam >= 0):
            raise ConfigError(f"lam is {lam!r}; the weight of the robust term must be a number >= 0")
        if robust not in ("kl", "ce"):
            raise ConfigError(f"robust is {robust!r}; choose 'kl' or 'ce'")
        self.lam = lam
        self.robust = robust
        self.name = f"trades-{robust}"

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the TRADES loss of each row; see ``gloro_fast.ops.trades``."""
        return trades(logits, labels, self._lam.read(logits.device), self.robust)

    def extra_repr(self) -> str:
        """Show lambda, the robust term and the rest."""
        return f"lam={self.lam:g}, robust={self.robust!r}, {super().extra_repr()}"


class AllMarginsLoss(MarginCriterion):
    """A criterion of the margins K D_yi of all classes, which the m + 1 logits do not have.

    Call ``net(x, labels, criterion)`` with class indices; arguments are those of :class:`MarginCriterion`.
    """

    op: Callable[[Tensor, Tensor, Tensor, float | Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Gives loss, prediction and certified or not per row from the class logits, D, K, epsilon and labels."""

    def __init__(
        self, reduction: str = "mean", *, weight: Tensor | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction, weight, ignore_index)

    def with_margin(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give (loss, prediction, certified) per row.

        Raises:
            DataError: labels are probabilities: the margins are those of one class.
        """
        self._check_weight(logits.shape[-1])
        if labels.is_floating_point():
            raise DataError(
                f"labels are probabilities, and {type(self).__name__} needs class indices; give labels (B,)"
            )
        found = type(self).op(logits, differences, lipschitz, epsilon, self._known(labels))
        return self._weighed(found[0], labels), *found[1:]

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Refuse: logits do not tell the margins.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{type(self).__name__} needs the margins of all classes; call net(x, labels, criterion)")


class EmmaLoss(AllMarginsLoss):
    """EMMA (Hu et al. 2023): cross entropy with every class raised by what the ball allows it, up to a tie.

    Arguments and use are those of :class:`AllMarginsLoss`; the loss per row is
    ``gloro_fast.ops.emma``.
    """

    name = "emma"
    op = staticmethod(emma)


class LmtLoss(AllMarginsLoss):
    """LMT: cross entropy with every wrong logit raised by epsilon times the Lipschitz constant of its margin.

    As published (Tsuzuku et al. 2018; the paper compares with it) that is sqrt(2) K epsilon with K of the whole net: so
    it is for ``GloRoNet(..., margins="whole")``. With a dense head it is epsilon K ||w_y - w_i||, which is less.
    Arguments and use are those of :class:`AllMarginsLoss`; the loss per row is ``gloro_fast.ops.lmt``.
    """

    name = "lmt"
    op = staticmethod(lmt)
