"""The rule of LogSoftmax."""

from __future__ import annotations

import math

from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.nn.rules import LipschitzConstant, register_lipschitz_rule


@register_lipschitz_rule(nn.LogSoftmax)
def log_softmax(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1 + sqrt(m): the Jacobian I - 1 p^T has at most the norm 1 + ||1|| ||p||, and ||p||_2 <= 1.

    At the end of a net it is left out instead, since it moves no difference of logits.

    Raises:
        ArchitectureError: it does not act on the only dimension of each row.
    """
    assert isinstance(module, nn.LogSoftmax)
    if len(input_shape) != 1 or module.dim not in (1, -1):
        raise ArchitectureError(f"{module} must act on the last dimension of (B, m); set dim=1")
    return LipschitzConstant(math.nextafter(1 + math.sqrt(input_shape[0]), math.inf), kind="upper bound")
