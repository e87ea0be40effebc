"""Layers that know their Lipschitz constant, and the rules for those of PyTorch."""

from gloro_fast.nn import batch_norm as batch_norm  # Registers its rule.
from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.functions import register_lipschitz_function
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.rules import Diagonal, LinearMap, LipschitzConstant, register_lipschitz_rule

__all__ = [
    "Conv2d",
    "Diagonal",
    "LinearMap",
    "LipschitzConstant",
    "MinMax",
    "register_lipschitz_function",
    "register_lipschitz_rule",
]
