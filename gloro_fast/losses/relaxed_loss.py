"""Training for relaxed guarantees (Leino and Fredrikson 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.losses.all_margins_loss import AllMarginsLoss
from gloro_fast.ops.cross_entropy_op import cross_entropy
from gloro_fast.ops.relaxed_margin_op import Relaxation, read_relaxation, relaxed_margin


class RelaxedLoss(AllMarginsLoss):
    """Cross entropy over m + 1 logits whose bottom is that of relaxed top-k or affinity robustness.

    Leino and Fredrikson, "Relaxing Local Robustness", NeurIPS 2021: classes that are alike need not be kept
    apart. What bottom is says ``gloro_fast.ops.relaxed_margin_op.relaxed_margin``; with k = 1 the loss is that of
    :class:`CrossEntropyLoss`. The net's own bottom and its certificates stay the ordinary ones;
    :func:`gloro_fast.evaluate.certify_relaxed` certifies what this trains for.

    Args:
        relaxation: k, or affinity sets of class indices; a class by itself is always one.
        reduction: as for :class:`MarginCriterion`.
        weight: likewise.
        ignore_index: likewise.

    Raises:
        ConfigError: the relaxation is neither.
    """

    name = "relaxed"
    members: Tensor | None

    def __init__(
        self,
        relaxation: Relaxation,
        reduction: str = "mean",
        *,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.most, members = read_relaxation(relaxation)
        self.register_buffer("members", members)

    def of_margins(
        self, logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, prediction, certified) per row; certified is that some set that is allowed does not change.

        Raises:
            ConfigError: the relaxation does not fit the m classes.
        """
        bottom, prediction, certified = relaxed_margin(logits, differences, lipschitz, epsilon, self.most, self.members)
        output = torch.cat([logits.to(bottom.dtype), bottom[:, None]], dim=1)
        return cross_entropy(output, labels), prediction, certified
