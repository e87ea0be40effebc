"""What is known of a layer: a linear map whose spectral norm is to be found, or a Lipschitz constant.

Every Lipschitz constant is for l2 norms. A layer without a rule is an error that names it: counting it as 1
would certify what is not robust.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from gloro_fast.errors import ArchitectureError, ConfigError, UnknownLayerError, nearest
from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.minmax import MinMax
from gloro_fast.ops.geometry import Geometry

KINDS = ("exact", "upper bound", "estimate")


@dataclass(frozen=True)
class LinearMap:
    """A layer that is linear but for a bias: its effective weight and its geometry."""

    weight: Tensor
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class Diagonal:
    """A layer that multiplies every element by a number of its own, but for a bias, such as BatchNorm in evaluation.

    Attributes:
        scale: the numbers, float64 and each within a relative 2^-50 of its real value. One dimension for each of the
            input's but the batch, of the same size or 1: (C, 1, 1) for one a channel of images.
    """

    scale: Tensor

    @property
    def of_channels(self) -> bool:
        """Whether there is one number a channel, or one for all, so that a layer beside it can take them in."""
        return self.scale.numel() in (1, *self.scale.shape[:1])


@dataclass(frozen=True)
class LipschitzConstant:
    """A layer whose Lipschitz constant is known beforehand.

    Attributes:
        value: the constant, finite and >= 0; a one-element tensor is taken as a float64 number.
        kind: ``"exact"`` (the smallest), ``"upper bound"``, or ``"estimate"`` (may be too small).

    Raises:
        ConfigError: the value is no such number, or there is no such kind.
    """

    value: float
    kind: str = "exact"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        if not (math.isfinite(self.value) and self.value >= 0):
            raise ConfigError(f"a Lipschitz constant is {self.value}; it must be a finite number >= 0")
        if self.kind not in KINDS:
            raise ConfigError(f"a Lipschitz constant cannot be {self.kind!r}{nearest(self.kind, KINDS)}")


Knowledge = LinearMap | Diagonal | LipschitzConstant
Rule = Callable[[nn.Module, tuple[int, ...]], Knowledge]
_RULES: dict[type[nn.Module], Rule] = {}
_R = TypeVar("_R", bound=Rule)
_ONE = LipschitzConstant(1.0)
# The Jacobian diag(p) - p p^T has row sums 2 p_i (1 - p_i) of absolute values, so that Gershgorin gives 1/2.
_SOFTMAX = LipschitzConstant(0.5, kind="upper bound")


def register_lipschitz_rule(*types: type[nn.Module]) -> Callable[[_R], _R]:
    """Register a rule for modules of exactly these types, not of subclasses: those may compute anything.

    The rule gets the module and the shape of its input without the batch, and returns a ``LinearMap``, a
    ``Diagonal``, or a ``LipschitzConstant`` that says whether it is exact, an upper bound or an estimate::

        @register_lipschitz_rule(MyLayer)
        def my_layer(module, input_shape):
            return LipschitzConstant(module.scale, kind="upper bound")
    """

    def register(rule: _R) -> _R:
        for kind in types:
            _RULES[kind] = rule
        return rule

    return register


def lipschitz_rule(name: str, module: nn.Module, input_shape: tuple[int, ...]) -> Knowledge:
    """Apply the rule of ``module`` for an input of ``input_shape`` (without the batch).

    Raises:
        UnknownLayerError: there is no rule for its type.
        ArchitectureError: the rule refuses the module's settings.
        ConfigError: the rule gives something else than it should.
    """
    rule = _RULES.get(known_type(module))
    if rule is None:
        raise unknown(name, module)
    try:
        result = rule(module, input_shape)
    except (ArchitectureError, ConfigError) as error:
        raise type(error)(f"{name or 'the module'}: {error}") from None
    if not isinstance(result, LinearMap | Diagonal | LipschitzConstant):
        raise ConfigError(f"the rule of {name} ({known_type(module).__name__}) gave {result!r}; see LipschitzConstant")
    return result


def has_rule(module: nn.Module) -> bool:
    """Whether there is a rule for the type of ``module``."""
    return known_type(module) in _RULES


def known_type(module: nn.Module) -> type[nn.Module]:
    """Give the type by which rules are found: the module's own, or the one that was parametrized."""
    return parametrize.type_before_parametrizations(module)


def is_dense(module: nn.Module) -> bool:
    """Whether ``module`` is exactly a dense layer (parametrized or not), so that it can be a head."""
    return known_type(module) is nn.Linear


def unknown(name: str, module: nn.Module) -> UnknownLayerError:
    """Make the error for a module without a rule, with the remedy."""
    kind = type(module).__name__
    return UnknownLayerError(
        f"{name or 'the module'} is a {kind}, whose Lipschitz constant is unknown; register a rule with "
        f"@gloro_fast.nn.register_lipschitz_rule({kind})"
    )


@register_lipschitz_rule(nn.Linear)
def _linear(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    # On an input with leading dimensions the layer acts block by block, with the norm of one block.
    weight: Tensor = module.weight  # type: ignore[assignment]
    return LinearMap(weight, Geometry(input_shape[-1:]))


@register_lipschitz_rule(nn.Conv2d, Conv2d)
def _conv2d(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    assert isinstance(module, nn.Conv2d)
    _require_images(module, input_shape)
    if module.padding_mode != "zeros":
        raise ArchitectureError(f"padding_mode is {module.padding_mode!r}; use 'zeros'")
    height, width = input_shape[-2:]
    if getattr(module, "same", False):
        padding = module.same_padding(height, width)  # type: ignore[operator]
    elif isinstance(module.padding, str):
        totals = [
            gap * (taps - 1) if module.padding == "same" else 0
            for gap, taps in zip(module.dilation, module.kernel_size, strict=True)
        ]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    else:
        padding = tuple((amount, amount) for amount in module.padding)
    geometry = Geometry(input_shape, module.stride, padding, module.dilation, module.groups)
    return LinearMap(module.weight, geometry)


@register_lipschitz_rule(MinMax, nn.ReLU, nn.Tanh, nn.Identity)
def _one(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    # MinMax permutes its input; ReLU and tanh have slopes in [0, 1]; Identity copies.
    return _ONE


@register_lipschitz_rule(nn.ZeroPad2d)
def _zero_pad(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    # With fewer dimensions it would pad the batch.
    _require_images(module, input_shape)
    return _ONE


@register_lipschitz_rule(nn.Flatten, nn.Unflatten)
def _reshape(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    first = module.start_dim if isinstance(module, nn.Flatten) else module.dim
    # The input has a batch dimension in front, so that dim = -k counts from len(input_shape) + 1.
    if not isinstance(first, int) or first % (len(input_shape) + 1) == 0:
        raise ArchitectureError(f"{module} mixes the images of a batch; start at dimension 1")
    return _ONE


@register_lipschitz_rule(nn.Softmax)
def _softmax(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    assert isinstance(module, nn.Softmax)
    if len(input_shape) != 1 or module.dim not in (1, -1):
        raise ArchitectureError(f"{module} must act on the last dimension of (B, m); set dim=1")
    return _SOFTMAX


def _require_images(module: nn.Module, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it needs (channels, height, width)")
