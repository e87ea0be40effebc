"""Rules for functions that are one operation of a graph though they consist of several: a user's own, mostly."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast.errors import ConfigError
from gloro_fast.rules.registry import Diagonal, LipschitzConstant

FunctionRule = Callable[..., nn.Module | Diagonal | LipschitzConstant]
_FUNCTIONS: dict[Callable[..., Any], FunctionRule] = {}
_R = TypeVar("_R", bound=FunctionRule)


def register_lipschitz_function(*functions: Callable[..., Any] | str) -> Callable[[_R], _R]:
    """Register a rule for functions of one tensor, so that a ``forward`` may call them.

    The rule gets the shape of the input without the batch, and what the function is called with besides its input. It
    returns the module that computes the same, whose rule is then used, or a ``LipschitzConstant`` or ``Diagonal``::

        @register_lipschitz_function(soft_sign)
        def _soft_sign(input_shape):
            return LipschitzConstant(1.0)

    What PyTorch makes of elementary operations that have a constant needs no rule.

    Args:
        functions: functions of PyTorch, or names of methods of tensors, or functions of your own that are called by
            the name under which their module has them.

    Raises:
        ConfigError: tensors have no such method.
    """
    for function in functions:
        if isinstance(function, str) and not hasattr(torch.Tensor, function):
            raise ConfigError(f"tensors have no method {function!r}; give the name of one that they have")

    def register(rule: _R) -> _R:
        for function in functions:
            _FUNCTIONS[getattr(torch.Tensor, function) if isinstance(function, str) else function] = rule
        return rule

    return register


def registered_function(function: Any) -> FunctionRule | None:
    """Return the rule registered for ``function``; None if there is none."""
    try:
        return _FUNCTIONS.get(function)
    except TypeError:  # Not hashable.
        return None


def python_functions() -> list[FunctionType]:
    """List the functions with a rule that PyTorch does not announce when they are called: those written in Python."""
    return [
        function
        for function in _FUNCTIONS
        if isinstance(function, FunctionType) and not function.__module__.startswith("torch.")
    ]


@register_lipschitz_function(F.softsign)
def _softsign(input_shape: tuple[int, ...]) -> nn.Module:
    return nn.Softsign()


@register_lipschitz_function(F.tanhshrink)
def _tanhshrink(input_shape: tuple[int, ...]) -> nn.Module:
    return nn.Tanhshrink()
