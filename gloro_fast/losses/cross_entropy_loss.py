"""Cross entropy over the m + 1 logits of a GloRo net (Leino et al. 2021, Section 4.1)."""

from __future__ import annotations

from torch import Tensor

from gloro_fast.losses.criterion import MarginCriterion
from gloro_fast.ops.cross_entropy_op import cross_entropy


class CrossEntropyLoss(MarginCriterion):
    """Cross entropy over m + 1 logits with bottom never the label.

    It penalizes every point unless it is both classified correctly and certified at the net's epsilon. Labels may be
    probabilities; arguments are those of :class:`MarginCriterion`.
    """

    name = "ce"

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of each row; see ``gloro_fast.ops.cross_entropy``."""
        return cross_entropy(logits, labels)
