"""The rule of LogSoftmax."""

from __future__ import annotations

from fractions import Fraction

from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.rules.registry import LipschitzConstant, register_lipschitz_rule
from gloro_fast.rules.windows import root_up


@register_lipschitz_rule(nn.LogSoftmax)
def log_softmax(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return sqrt(m), rounded up: the Jacobian is I - P with the projection P = 1 p^T, since p sums to 1.

    A projection and its complement have the same norm, here ||1|| ||p|| <= sqrt(m), attained in the limit of one class.

    At the end of a net it is left out instead, since it moves no difference of logits.

    Raises:
        ArchitectureError: it does not act on the only dimension of each row.
    """
    assert isinstance(module, nn.LogSoftmax)
    if len(input_shape) != 1 or module.dim not in (1, -1):
        raise ArchitectureError(f"{module} must act on the last dimension of (B, m); set dim=1")
    return LipschitzConstant(root_up(Fraction(input_shape[0])))
