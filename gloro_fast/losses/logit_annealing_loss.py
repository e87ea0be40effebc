"""Logit annealing (Lai et al. 2025)."""

from __future__ import annotations

from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.losses.all_margins_loss import AllMarginsLoss
from gloro_fast.ops.logit_annealing_op import logit_annealing


class LogitAnnealingLoss(AllMarginsLoss):
    """Logit annealing: -T (1 - p_y)^beta log p_y, p = softmax((z - xi e_y) / T), z as EMMA raises the logits.

    Lai et al., "Enhancing Certified Robustness via Block Reflector Orthogonal Layers and Logit Annealing Loss", ICML
    2025. Numbers by default are those of their CIFAR-10 nets, for logits of nets whose Lipschitz constant is
    about 1. Use is that of :class:`AllMarginsLoss`; the loss per row is ``gloro_fast.ops.logit_annealing``.

    Args:
        temperature: T, > 0.
        offset: xi, the margin to reach, in units of the logits.
        power: beta, >= 0; how much less is given to points beyond it.
        reduction: as for :class:`MarginCriterion`.
        weight: likewise.
        ignore_index: likewise.

    Raises:
        ConfigError: a number is out of range.
    """

    name = "logit-annealing"

    def __init__(
        self,
        temperature: float = 0.75,
        offset: float = 2.0,
        power: float = 5.0,
        reduction: str = "mean",
        *,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        if not (temperature > 0 and power >= 0):
            raise ConfigError(f"temperature and power are {temperature!r} and {power!r}; give numbers > 0 and >= 0")
        self.temperature = temperature
        self.offset = offset
        self.power = power

    def of_margins(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, prediction, certified) per row; see ``gloro_fast.ops.logit_annealing``."""
        numbers = self.temperature, self.offset, self.power
        return logit_annealing(logits, differences, lipschitz, epsilon, labels, *numbers)
