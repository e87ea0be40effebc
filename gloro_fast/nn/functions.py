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


# The functions that compute what a layer of PyTorch computes, and take the arguments of its constructor.
_OF_LAYERS: dict[type[nn.Module], tuple[Callable[..., Any] | str, ...]] = {
    nn.ReLU: (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    nn.ReLU6: (F.relu6,),
    nn.LeakyReLU: (F.leaky_relu, F.leaky_relu_),
    nn.ELU: (F.elu, F.elu_),
    nn.SELU: (F.selu, F.selu_, torch.selu),
    nn.CELU: (F.celu, F.celu_, torch.celu),
    nn.GELU: (F.gelu,),
    nn.SiLU: (F.silu,),
    nn.Mish: (F.mish,),
    nn.Softplus: (F.softplus,),
    nn.Softsign: (F.softsign,),
    nn.Softshrink: (F.softshrink,),
    nn.Tanhshrink: (F.tanhshrink,),
    nn.Tanh: (F.tanh, torch.tanh, "tanh", "tanh_"),
    nn.Sigmoid: (F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"),
    nn.LogSigmoid: (F.logsigmoid,),
    nn.Hardtanh: (F.hardtanh, F.hardtanh_),
    nn.Hardsigmoid: (F.hardsigmoid,),
    nn.Hardswish: (F.hardswish,),
    nn.MaxPool1d: (F.max_pool1d, torch.max_pool1d),
    nn.MaxPool2d: (F.max_pool2d, torch.max_pool2d),
    nn.MaxPool3d: (F.max_pool3d, torch.max_pool3d),
    nn.AvgPool1d: (F.avg_pool1d,),
    nn.AvgPool2d: (F.avg_pool2d,),
    nn.AvgPool3d: (F.avg_pool3d,),
    nn.AdaptiveAvgPool1d: (F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d),
    nn.AdaptiveAvgPool2d: (F.adaptive_avg_pool2d,),
    nn.AdaptiveAvgPool3d: (F.adaptive_avg_pool3d,),
    nn.AdaptiveMaxPool1d: (F.adaptive_max_pool1d,),
    nn.AdaptiveMaxPool2d: (F.adaptive_max_pool2d,),
    nn.PixelShuffle: (F.pixel_shuffle, torch.pixel_shuffle),
    nn.PixelUnshuffle: (F.pixel_unshuffle, torch.pixel_unshuffle),
}


def _layer(kind: type[nn.Module]) -> FunctionRule:
    def rule(input_shape: tuple[int, ...], *args: Any, **keywords: Any) -> nn.Module:
        return kind(*args, **keywords)

    return rule


for _kind, _functions in _OF_LAYERS.items():
    register_lipschitz_function(*_functions)(_layer(_kind))


@register_lipschitz_function(F.softmax, torch.softmax, "softmax")
def _softmax(input_shape: tuple[int, ...], dim: int | None = None, **unused: Any) -> nn.Module:
    return nn.Softmax(dim)


@register_lipschitz_function(F.interpolate)
def _interpolate(
    input_shape: tuple[int, ...],
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> nn.Module:
    return nn.Upsample(size, scale_factor, mode, align_corners, recompute_scale_factor)


@register_lipschitz_function(torch.abs, "abs", torch.sin, "sin", torch.cos, "cos")
def _one(input_shape: tuple[int, ...]) -> LipschitzConstant:
    return LipschitzConstant(1.0, per_element=True)


@register_lipschitz_function(torch.clamp, torch.clip, "clamp", "clip")
def _clamp(
    input_shape: tuple[int, ...],
    min: float | None = None,
    max: float | None = None,
) -> LipschitzConstant:
    return LipschitzConstant(1.0, per_element=True)
