"""TRADES for GloRo nets (Leino et al. 2021, Definition 3)."""

from __future__ import annotations

import math

from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.losses.criterion import MarginCriterion
from gloro_fast.ops.trades_op import trades


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
        """Return the TRADES loss of each row; see ``gloro_fast.ops.trades``."""
        return trades(logits, labels, self._lam.read(logits.device), self.robust)

    def extra_repr(self) -> str:
        """Show lambda, the robust term and the rest."""
        return f"lam={self.lam:g}, robust={self.robust!r}, {super().extra_repr()}"
