"""Rules of activations: the largest slope of each, rounded up."""

from __future__ import annotations

import math

from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.nn.group_sort import GroupSort
from gloro_fast.nn.householder import Householder
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.rules import LipschitzConstant, register_lipschitz_rule

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

# At a threshold of 20 the switch to the identity jumps by log(1 + exp(-20)) = 2.1e-9: less than float32 resolves
# there, so that it counts as rounding.
_SOFTPLUS_THRESHOLD = 20.0


@register_lipschitz_rule(MinMax, GroupSort, Householder)
def orthogonal(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1: MinMax and GroupSort permute, differently from cell to cell; Householder reflects."""
    return LipschitzConstant(1.0)


# Identity copies; the slopes of the others lie in [0, 1] and come as close to 1 as one likes.
@register_lipschitz_rule(
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Tanh,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Softshrink,
    nn.LogSigmoid,
)
def one(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1."""
    return _ONE


@register_lipschitz_rule(nn.Sigmoid)
def sigmoid(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1/4."""
    return LipschitzConstant(SIGMOID, per_element=True)


@register_lipschitz_rule(nn.Hardsigmoid)
def hardsigmoid(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1/6."""
    return LipschitzConstant(HARDSIGMOID, per_element=True)


@register_lipschitz_rule(nn.Hardswish)
def hardswish(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 3/2."""
    return LipschitzConstant(HARDSWISH, per_element=True)


@register_lipschitz_rule(nn.GELU)
def gelu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give the largest slope of the approximation in use."""
    return LipschitzConstant(GELU_TANH if module.approximate == "tanh" else GELU_ERF, per_element=True)


@register_lipschitz_rule(nn.SiLU)
def silu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give the largest slope."""
    return LipschitzConstant(SILU, per_element=True)


@register_lipschitz_rule(nn.Mish)
def mish(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give the largest slope."""
    return LipschitzConstant(MISH, per_element=True)


@register_lipschitz_rule(nn.SELU)
def selu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give scale * alpha."""
    return LipschitzConstant(SELU, per_element=True)


@register_lipschitz_rule(nn.LeakyReLU)
def leaky_relu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give max(1, |negative slope|)."""
    slope: float = module.negative_slope  # type: ignore[assignment]
    return LipschitzConstant(max(1.0, abs(slope)), per_element=True)


@register_lipschitz_rule(nn.PReLU)
def prelu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give max(1, |a|) over all learned slopes a; training differentiates it."""
    slopes: Tensor = module.weight  # type: ignore[assignment]
    return LipschitzConstant(slopes.abs().amax().clamp_min(1.0), per_element=True)


@register_lipschitz_rule(nn.ELU)
def elu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give max(1, |alpha|): below 0 the slope is alpha exp(x)."""
    alpha: float = module.alpha  # type: ignore[assignment]
    return LipschitzConstant(max(1.0, abs(alpha)), per_element=True)


@register_lipschitz_rule(nn.CELU)
def celu(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1: below 0 the slope is exp(x / alpha).

    Raises:
        ArchitectureError: alpha is not positive, so that the slope grows without limit.
    """
    alpha: float = module.alpha  # type: ignore[assignment]
    if not alpha > 0:
        raise ArchitectureError(f"alpha is {alpha:g}; it must be greater than 0")
    return _ONE


@register_lipschitz_rule(nn.Softplus)
def softplus(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1: the slope is sigmoid(beta x).

    Raises:
        ArchitectureError: beta is not positive, or the threshold is where the switch to the identity is a jump.
    """
    beta: float = module.beta  # type: ignore[assignment]
    threshold: float = module.threshold  # type: ignore[assignment]
    if not beta > 0:
        raise ArchitectureError(f"beta is {beta:g}; it must be greater than 0")
    if not threshold >= _SOFTPLUS_THRESHOLD:
        raise ArchitectureError(
            f"threshold is {threshold:g}, where Softplus jumps and so has no Lipschitz constant; set it to "
            f"{_SOFTPLUS_THRESHOLD:g} or more"
        )
    return _ONE


@register_lipschitz_rule(nn.Softmax)
def softmax(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1/2: the Jacobian diag(p) - p p^T has absolute row sums 2 p_i (1 - p_i), so that Gershgorin gives 1/2.

    Raises:
        ArchitectureError: it does not act on the only dimension of each row.
    """
    assert isinstance(module, nn.Softmax)
    if len(input_shape) != 1 or module.dim not in (1, -1):
        raise ArchitectureError(f"{module} must act on the last dimension of (B, m); set dim=1")
    return LipschitzConstant(0.5, kind="upper bound")


@register_lipschitz_rule(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
def dropout(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Give 1, exact in evaluation; in training an estimate that stands for the net to be evaluated."""
    return LipschitzConstant(1.0, kind="estimate", per_element=True) if module.training else _ONE
