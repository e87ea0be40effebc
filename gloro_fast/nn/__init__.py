"""Layers that know their Lipschitz constant, and the rules for those of PyTorch."""

from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.rules import LinearMap, LipschitzConstant, register_lipschitz_rule

__all__ = ["Conv2d", "LinearMap", "LipschitzConstant", "MinMax", "register_lipschitz_rule"]
