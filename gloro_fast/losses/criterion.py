"""What training criteria of a GloRo net share: reduction, weights, ignored labels, and lambda on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.ops.labels import check_labels
from gloro_fast.ops.margin_loss_op import CRITERIA, margin_loss
from gloro_fast.ops.margin_op import margin
from gloro_fast.ops.scalar import Scalar


class Criterion(nn.Module):
    """A criterion that a recipe names: one with a weight lambda, which captured graphs of training steps follow."""

    def __init__(self) -> None:
        super().__init__()
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lam = Scalar(self._lam.value)  # a shallow copy has its own


class MarginCriterion(Criterion):
    """A criterion that a GloRo net can compute together with its margin, in one pass over the logits.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
        weight: (m,) of a floating dtype, what the loss of a row is multiplied by for each class; as in PyTorch the mean
            over class indices is divided by the sum of the weights.
        ignore_index: a label whose rows have no loss, and do not count in the mean; without it every label must be a
            class.

    Attributes:
        name: what ``gloro_fast.ops.margin_loss`` calls it, if it is one of ``CRITERIA``, so that it runs compiled.
        reduction, weight, ignore_index: as given; the weight is a buffer.

    Raises:
        ConfigError: an argument cannot be used.
    """

    name: str
    reduction: str
    weight: Tensor | None
    ignore_index: int | None

    def __init__(self, reduction: str = "mean", weight: Tensor | None = None, ignore_index: int | None = None) -> None:
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

    @property
    def is_margin_loss(self) -> bool:
        """Whether ``gloro_fast.ops.margin_loss`` computes it, and asserts the range of labels on their device."""
        return self.name in CRITERIA

    def is_mean_of_margin_loss(self, labels: Tensor) -> bool:
        """Return whether the loss of ``labels`` is the mean of the rows of ``gloro_fast.ops.margin_loss``."""
        if not self.is_margin_loss:
            return False
        weighed = self.weight is not None or self.ignore_index is not None
        return not weighed and self.reduction == "mean" and not labels.is_floating_point()

    def with_margin(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, prediction, certified) per row from the m class logits; see ``gloro_fast.ops.margin_loss``.

        Labels are class indices (B,), or probabilities (B, m); epsilon is a number or a 0-dim float64 tensor.
        """
        self._check_weight(logits.shape[-1])
        if labels.is_floating_point() or not self.is_margin_loss:
            bottom, prediction, radius = margin(logits, differences, lipschitz, epsilon)
            output = torch.cat([logits.to(bottom.dtype), bottom[:, None]], dim=1)
            return self._of_rows(output, labels), prediction, radius > epsilon
        known = self._known(labels)
        lam = self._lam.read(logits.device)
        loss, prediction, certified = margin_loss(logits, differences, lipschitz, epsilon, known, self.name, lam)
        return self._weighed(loss, labels), prediction, certified

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (B,) of each row of m + 1 logits, unweighted."""
        raise NotImplementedError

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

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
        return self.reduce(self._of_rows(logits, labels))

    def reduce(self, losses: Tensor) -> Tensor:
        """Reduce the losses (B,) of a batch as ``reduction`` says."""
        if self.reduction == "mean":
            return losses.mean()
        return losses.sum() if self.reduction == "sum" else losses

    def extra_repr(self) -> str:
        """Show the reduction and what is ignored."""
        ignored = "" if self.ignore_index is None else f", ignore_index={self.ignore_index}"
        return f"reduction={self.reduction!r}{ignored}"

    def _check_weight(self, classes: int) -> None:
        if self.weight is not None and len(self.weight) != classes:
            raise ConfigError(f"weight has {len(self.weight)} entries; give one for each of the {classes} classes")

    def _known(self, labels: Tensor) -> Tensor:
        """Return the labels with a class in place of the ignored ones."""
        return labels if self.ignore_index is None else labels.masked_fill(labels == self.ignore_index, 0)

    def _of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (B,) of m + 1 logits, weighed."""
        if labels.is_floating_point():
            return self.rows(logits, labels if self.weight is None else labels * self.weight)
        return self._weighed(self.rows(logits, self._known(labels)), labels)

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
