"""Last layer normalization (Singla et al. 2022)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class UnitRows(nn.Module):
    """Parametrization of a weight by its rows divided by their l2 norms: last layer normalization (LLN).

    Singla, Singla, Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", ICLR 2022: with
    w_i / ||w_i|| for w_i each logit has the Lipschitz constant K of what comes before, and margins grow by direction
    alone. A row of zeros stays. Register it on the head, whose differences bounds read as they are after it::

        torch.nn.utils.parametrize.register_parametrization(head, "weight", UnitRows())
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight`` (m, ...) with rows of norm 1."""
        return F.normalize(weight.flatten(1), dim=1).view_as(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return ``weight``, so that assigning one keeps its directions."""
        return weight
