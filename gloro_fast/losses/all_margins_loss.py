"""What criteria of the margins of all classes share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.losses.criterion import MarginCriterion


class AllMarginsLoss(MarginCriterion):
    """A criterion of the margins K D_yi of all classes, which the m + 1 logits do not have.

    Call ``net(x, labels, criterion)`` with class indices; arguments are those of :class:`MarginCriterion`.
    """

    op: Callable[[Tensor, Tensor, Tensor, float | Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Gives loss, prediction and certified or not per row from the class logits, D, K, epsilon and labels."""

    def of_margins(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, prediction, certified) per row, unweighted, for class indices in [0, m)."""
        return type(self).op(logits, differences, lipschitz, epsilon, labels)

    def with_margin(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, prediction, certified) per row.

        Raises:
            DataError: labels are probabilities: the margins are those of one class.
        """
        self._check_weight(logits.shape[-1])
        if labels.is_floating_point():
            raise DataError(
                f"labels are probabilities, and {type(self).__name__} needs class indices; give labels (B,)"
            )
        found = self.of_margins(logits, differences, lipschitz, epsilon, self._known(labels))
        return self._weighed(found[0], labels), *found[1:]

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Refuse: logits do not tell the margins.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{type(self).__name__} needs the margins of all classes; call net(x, labels, criterion)")
