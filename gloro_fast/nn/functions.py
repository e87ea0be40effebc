"""What is known of functions that a ``forward`` calls, such as ``F.relu(x)`` or ``x.tanh()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast.nn.rules import Diagonal, LipschitzConstant

FunctionRule = Callable[..., nn.Module | Diagonal | LipschitzConstant]
_FUNCTIONS: dict[Callable[..., Any] | str, FunctionRule] = {}
_R = TypeVar("_R", bound=FunctionRule)


def register_lipschitz_function(*functions: Callable[..., Any] | str) -> Callable[[_R], _R]:
    """Register a rule for functions of one tensor, so that a ``forward`` may call them.

    A string is the name of a method of tensors. The rule gets the shape of the input without the batch, and what the
    function is called with besides its input. It returns the module that computes the same, whose rule is then
    used, or a ``LipschitzConstant`` or ``Diagonal``. A function of your own must be made known to the tracer as
    one operation::

        torch.fx.wrap("soft_sign")

        @register_lipschitz_function(soft_sign)
        def _soft_sign(input_shape):
            return LipschitzConstant(1.0)
    """

    def register(rule: _R) -> _R:
        for function in functions:
            _FUNCTIONS[function] = rule
        return rule

    return register


def function_rule(function: Callable[..., Any] | str) -> FunctionRule | None:
    """Give the rule registered for ``function`` (for a string: the method of tensors); None if there is none."""
    return _FUNCTIONS.get(function)


@register_lipschitz_function(F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
def _relu(input_shape: tuple[int, ...], inplace: bool = False) -> nn.Module:
    return nn.ReLU()


@register_lipschitz_function(F.tanh, torch.tanh, "tanh", "tanh_")
def _tanh(input_shape: tuple[int, ...]) -> nn.Module:
    return nn.Tanh()


@register_lipschitz_function(F.softmax, torch.softmax, "softmax")
def _softmax(input_shape: tuple[int, ...], dim: int | None = None, **unused: Any) -> nn.Module:
    return nn.Softmax(dim)
