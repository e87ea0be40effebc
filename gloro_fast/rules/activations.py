"""Rules of activations: the largest slope of each, rounded up."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.rules.registry import LipschitzConstant, known_type, register_by_name, register_lipschitz_rule
from gloro_fast.rules.traits import ELEMENTWISE, SELECTION, Traits

_ONE = LipschitzConstant(1.0, per_element=True)

SIGMOID = 0.25
"""Slope p (1 - p) at 0."""
HARDSIGMOID = math.nextafter(1 / 6, 1.0)
HARDSWISH = 1.5
"""Slope (2 x + 3) / 6 towards x = 3."""
GELU_ERF = 1.128904145185155
"""Slope Phi(x) + x phi(x); its derivative (2 - x^2) phi(x) vanishes at sqrt(2)."""
GELU_TANH = 1.128993068658772
"""Slope at x = 1.41850..., the zero of its derivative."""
SILU = 1.099839320128867
"""Slope s + x s (1 - s) with s = sigmoid(x); its derivative vanishes where x tanh(x / 2) = 2, at 2.39935..."""
MISH = 1.088498161251728
"""Slope at x = 1.49057..., the zero of its derivative."""
SELU = 1.758099340847377
"""Slope scale * alpha below 0, towards it: 1.05070... * 1.67326..."""

_SLOPES = {
    nn.Sigmoid: SIGMOID,
    nn.Hardsigmoid: HARDSIGMOID,
    nn.Hardswish: HARDSWISH,
    nn.SiLU: SILU,
    nn.Mish: MISH,
    nn.SELU: SELU,
}
_OVERFLOW = 88.0
"""exp of it is still a float32 number, the type in which half types are computed as well; exp(89) is infinite."""


# Identity copies; the slopes of the others lie in [0, 1] and come as close to 1 as one likes.
@register_lipschitz_rule(nn.Identity, nn.ReLU, traits=SELECTION)
@register_lipschitz_rule(
    nn.ReLU6,
    nn.Hardtanh,
    nn.Tanh,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Softshrink,
    nn.LogSigmoid,
    traits=ELEMENTWISE,
)
def one(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1."""
    return _ONE


@register_lipschitz_rule(*_SLOPES, traits=ELEMENTWISE)
def slope(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return the largest slope."""
    return LipschitzConstant(_SLOPES[known_type(module)], per_element=True)


@register_lipschitz_rule(nn.GELU, traits=ELEMENTWISE)
def gelu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return the largest slope of the approximation in use."""
    return LipschitzConstant(GELU_TANH if module.approximate == "tanh" else GELU_ERF, per_element=True)


@register_lipschitz_rule(nn.LeakyReLU, traits=ELEMENTWISE)
def leaky_relu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return max(1, |negative slope|).

    Raises:
        ArchitectureError: the slope is not finite.
    """
    slope = _finite("negative_slope", module.negative_slope)
    return LipschitzConstant(max(1.0, abs(slope)), per_element=True)


@register_lipschitz_rule(nn.PReLU, traits=ELEMENTWISE)
def prelu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return max(1, |a|) over all learned slopes a; training differentiates it."""
    slopes: Tensor = module.weight  # type: ignore[assignment]
    return LipschitzConstant(slopes.abs().amax().clamp_min(1.0), per_element=True)


@register_lipschitz_rule(nn.ELU, traits=ELEMENTWISE)
def elu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return max(1, |alpha|): below 0 the slope is alpha exp(x).

    Raises:
        ArchitectureError: alpha is not finite.
    """
    alpha = _finite("alpha", module.alpha)
    return LipschitzConstant(max(1.0, abs(alpha)), per_element=True)


@register_lipschitz_rule(nn.CELU, traits=ELEMENTWISE)
def celu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1: below 0 the slope is exp(x / alpha).

    Raises:
        ArchitectureError: alpha is not positive, so that the slope grows without limit, or not finite.
    """
    _positive("alpha", module.alpha)
    return _ONE


@register_lipschitz_rule(nn.Softplus, traits=ELEMENTWISE)
def softplus(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1: the slope is sigmoid(beta x). Inputs of float64 need a larger threshold; see ``check_dtype``.

    Raises:
        ArchitectureError: beta is not positive, or the threshold is where the switch to the identity is a jump, or
            beyond where exp overflows: a clamp behind would take the infinity for a number.
    """
    _positive("beta", module.beta)
    threshold: float = module.threshold  # type: ignore[assignment]
    check_dtype(module, torch.float32)
    if not threshold <= _OVERFLOW:
        raise ArchitectureError(
            f"threshold is {threshold:g}, below which Softplus overflows; set it to {_OVERFLOW:g} or less"
        )
    return _ONE


def softplus_threshold(dtype: torch.dtype) -> float:
    """Return a threshold at which the switch of Softplus to the identity counts as rounding, for inputs of ``dtype``.

    At a threshold t it jumps by log(1 + exp(-t)) / beta at t / beta, so that for every beta it is less than the unit
    roundoff u times the value if exp(-t) < u t: with exp(-20) = 2.1e-9 in float32 (u = 6e-8), in which half types are
    computed too, and exp(-37) = 8.5e-17 in float64 (u = 1.1e-16).
    """
    return 37.0 if dtype == torch.float64 else 20.0


def check_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Refuse an activation whose rule does not hold for inputs of ``dtype``; rules themselves are for up to float32.

    Raises:
        ArchitectureError: names the setting.
    """
    if known_type(module) is not nn.Softplus:
        return
    threshold: float = module.threshold  # type: ignore[assignment]
    least = softplus_threshold(dtype)
    if not threshold >= least:
        raise ArchitectureError(
            f"threshold is {threshold:g}, where Softplus jumps in {str(dtype).removeprefix('torch.')} and so has no "
            f"Lipschitz constant; set it to {least:g} or more"
        )


def _finite(name: str, value: Any) -> float:
    # NaN would get lost in a maximum, and only where the slope is used would the net give it.
    if not math.isfinite(value):
        raise ArchitectureError(f"{name} is {value:g}; it must be finite")
    return float(value)


def _positive(name: str, value: Any) -> float:
    if not value > 0:
        raise ArchitectureError(f"{name} is {value:g}; it must be greater than 0")
    return _finite(name, value)


@register_lipschitz_rule(nn.Softmax, traits=ELEMENTWISE)
def softmax(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1/2: the Jacobian diag(p) - p p^T has absolute row sums 2 p_i (1 - p_i), so that Gershgorin gives 1/2.

    Raises:
        ArchitectureError: it does not act on the only dimension of each row.
    """
    assert isinstance(module, nn.Softmax)
    if len(input_shape) != 1 or module.dim not in (1, -1):
        raise ArchitectureError(f"{module} must act on the last dimension of (B, m); set dim=1")
    return LipschitzConstant(0.5, kind="upper bound")


@register_by_name("timm.layers.drop.DropPath", "torchvision.ops.stochastic_depth.StochasticDepth", traits=ELEMENTWISE)
@register_lipschitz_rule(nn.AlphaDropout, nn.FeatureAlphaDropout, traits=Traits(multiplies=False, scales=True))
@register_lipschitz_rule(
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    traits=Traits(multiplies=False, scales=True, rounding="selection"),
)
def dropout(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1, exact in evaluation; in training an estimate that stands for the net to be evaluated."""
    return LipschitzConstant(1.0, kind="estimate", per_element=True) if module.training else _ONE
