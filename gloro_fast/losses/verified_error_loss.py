"""EMMA blended with a smooth count of verified errors."""

from __future__ import annotations

from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.losses.all_margins_loss import AllMarginsLoss
from gloro_fast.ops.verified_error_op import verified_error


class VerifiedErrorLoss(AllMarginsLoss):
    """Verified errors: (1 - lambda) EMMA + lambda (1 - p_y), p the softmax of the logits raised within the ball.

    For radii at which the net can certify but a part of the points: 1 - p_y is a smooth count of those that it does
    not, so that capacity goes to the points near their certificate. It is the generalized cross entropy of Zhang and
    Sabuncu ("Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS 2018) with
    q = 1. Let lambda grow from 0 during training, and keep it below 1. Use is that of :class:`AllMarginsLoss`; the loss
    per row is ``gloro_fast.ops.verified_error``.

    Args:
        lam: lambda, in [0, 1]; may be set between steps.
        reduction: as for :class:`MarginCriterion`.
        weight: likewise.
        ignore_index: likewise.

    Raises:
        ConfigError: an argument cannot be used.
    """

    name = "verified-error"

    def __init__(
        self,
        lam: float,
        reduction: str = "mean",
        *,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.lam = lam

    @property
    def lam(self) -> float:
        """The share of the smooth count; see ``Criterion.lam``. Setting one outside [0, 1] is a ``ConfigError``."""
        return self._lam.value

    @lam.setter
    def lam(self, value: float) -> None:
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ConfigError(f"lam is {value!r}; the share of the smooth count must be a number from 0 to 1")
        self._lam.value = value

    def of_margins(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, prediction, certified) per row; see ``gloro_fast.ops.verified_error``."""
        return verified_error(logits, differences, lipschitz, epsilon, labels, self._lam.read(logits.device))

    def extra_repr(self) -> str:
        """Show lambda and the rest."""
        return f"lam={self.lam:g}, {super().extra_repr()}"
