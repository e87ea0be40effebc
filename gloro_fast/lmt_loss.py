"""Lipschitz margin training (Tsuzuku et al. 2018), a method that the paper compares with."""

from __future__ import annotations

from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.losses import MarginCriterion
from gloro_fast.ops.lmt import lmt


class LmtLoss(MarginCriterion):
    """LMT: cross entropy with every wrong logit raised by epsilon times the Lipschitz constant of its margin.

    As published that is sqrt(2) K epsilon with K of the whole net: so it is for ``GloRoNet(..., margins="whole")``.
    With a dense head it is epsilon K ||w_y - w_i||, which is less. It needs more than the m + 1 logits have: call
    ``net(x, labels, criterion)``.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over the batch.
    """

    name = "lmt"
    lam = 0.0

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def with_margin(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give (loss, prediction, certified) per row; see ``gloro_fast.ops.lmt``."""
        return lmt(logits, differences, lipschitz, epsilon, labels)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Refuse: logits do not tell the Lipschitz constant.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("LmtLoss needs the margins of all classes; call net(x, labels, criterion)")

    def extra_repr(self) -> str:
        """Show the reduction."""
        return f"reduction={self.reduction!r}"
