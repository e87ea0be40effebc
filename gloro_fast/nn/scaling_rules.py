"""Rules of layers that scale by constants: input normalization, and one factor for all."""

from __future__ import annotations

from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.nn.normalize import Normalize, Scale
from gloro_fast.nn.real import require_floating
from gloro_fast.nn.rules import Diagonal, LipschitzConstant, register_lipschitz_rule


@register_lipschitz_rule(Normalize)
def normalize(module: nn.Module, input_shape: tuple[int, ...]) -> Diagonal:
    """Give 1 / std a channel, in float64.

    Raises:
        ArchitectureError: the input has another number of channels.
    """
    assert isinstance(module, Normalize)
    if len(module.std) not in (1, *input_shape[:1]):
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it needs {len(module.std)} channels")
    return Diagonal((1 / require_floating("std", module.std).double()).reshape(-1, *[1] * (len(input_shape) - 1)))


@register_lipschitz_rule(Scale)
def scale(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give |factor|."""
    assert isinstance(module, Scale)
    return LipschitzConstant(abs(module.factor), per_element=True)
