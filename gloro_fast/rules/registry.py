"""What is known of a layer: a linear map whose spectral norm is to be found, or a Lipschitz constant.

Every Lipschitz constant is for l2 norms. A layer without a rule is an error that names it: counting it as 1
would certify what is not robust. The rules themselves stand in the files ``*_rules.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import getattr_static
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gloro_fast.errors import ArchitectureError, ConfigError, UnknownLayerError, nearest
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.real import require_floating, require_real
from gloro_fast.rules.remedies import REMEDIES
from gloro_fast.rules.traits import Traits

KINDS = ("exact", "upper bound", "estimate")


@dataclass(frozen=True)
class LinearMap:
    """A layer that is linear but for a bias: its effective weight and its geometry.

    Attributes:
        weight: the effective weight.
        geometry: how it acts.
        transposed: the layer is the adjoint of that map, which has the same norm.
        error: what must be added to a bound on the norm, where the weight was rounded: >= the norm of what that
            changed.
        factor: what a bound on the norm must be multiplied by: >= the norm of what happens to the input before, such as
            copying pixels into a padding.

    Raises:
        ArchitectureError: the weight is not real floating point.
    """

    weight: Tensor
    geometry: Geometry
    transposed: bool = False
    error: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        require_floating("the weight", self.weight)


@dataclass(frozen=True, eq=False)
class Diagonal:
    """A layer that multiplies every element by a number of its own, but for a bias, such as BatchNorm in evaluation.

    Attributes:
        scale: the numbers, float64 and each within a relative 2^-50 of its real value. One dimension for each of the
            input's but the batch, of the same size or 1: (C, 1, 1) for one a channel of images.

    Raises:
        ArchitectureError: the numbers are not real floating point.
    """

    scale: Tensor

    def __post_init__(self) -> None:
        require_floating("the scale", self.scale)

    @property
    def of_channels(self) -> bool:
        """Whether there is one number a channel, or one for all, so that a layer beside it can take them in."""
        return self.scale.numel() in (1, *self.scale.shape[:1])


class LipschitzConstant:
    """A layer whose Lipschitz constant is known beforehand.

    Args:
        value: the constant, finite and >= 0, or a one-element tensor of it. One that autograd records, as in
            training, keeps its gradient, and is read only where its number is asked for.
        kind: ``"exact"`` (the smallest, but for rounding up), ``"upper bound"``, or ``"estimate"`` (may be too small).
        per_element: whether each element of the output depends on the one in its place alone, and moves by at most the
            constant times as much, as with an activation. Behind a dense head, margins then keep a constant per logit.

    Attributes:
        kind, per_element: as given.
        factor: what training multiplies by: the tensor that autograd records, or else the number.

    Raises:
        ConfigError: the value is no such number, or there is no such kind.
        ArchitectureError: it is a tensor of complex numbers.
    """

    kind: str
    per_element: bool
    factor: float | Tensor

    def __init__(self, value: float | Tensor, kind: str = "exact", per_element: bool = False) -> None:
        if kind not in KINDS:
            raise ConfigError(f"a Lipschitz constant cannot be {kind!r}{nearest(kind, KINDS)}")
        self.kind, self.per_element = kind, per_element
        if isinstance(value, Tensor):
            require_real("a Lipschitz constant", value)
        recorded = isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()
        # A graph cannot read a tensor.
        unread = recorded or (isinstance(value, Tensor) and torch.compiler.is_compiling())
        self.factor = value if unread else _checked(value)

    @property
    def value(self) -> float:
        """The constant as a number, float64."""
        return self.factor if isinstance(self.factor, float) else _checked(self.factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LipschitzConstant):
            return NotImplemented
        return (self.value, self.kind, self.per_element) == (other.value, other.kind, other.per_element)

    def __hash__(self) -> int:
        return hash((self.value, self.kind, self.per_element))

    def __repr__(self) -> str:
        element = ", per_element=True" if self.per_element else ""
        return f"LipschitzConstant({self.value!r}, kind={self.kind!r}{element})"


def _checked(value: float | Tensor) -> float:
    number = float(value.detach() if isinstance(value, Tensor) else value)
    if not (math.isfinite(number) and number >= 0):
        raise ConfigError(f"a Lipschitz constant is {number}; it must be a finite number >= 0")
    return number


Knowledge = LinearMap | Diagonal | LipschitzConstant
Rule = Callable[[nn.Module, tuple[int, ...]], Knowledge]


class Registered(NamedTuple):
    """A rule, and what else is known of the layers that it is for."""

    rule: Rule
    traits: Traits


_RULES: dict[type[nn.Module], Registered] = {}
# Of classes of other packages, by their full names: those packages are not imported for it.
_RULES_BY_NAME: dict[str, Registered] = {}
_registrations = 0
_NOTHING = Traits()
_R = TypeVar("_R", bound=Rule)


def register_lipschitz_rule(*types: type[nn.Module], traits: Traits = _NOTHING) -> Callable[[_R], _R]:
    """Register a rule for modules of exactly these types, not of subclasses: those may compute anything.

    The rule gets the module and the shape of its input without the batch, and returns a ``LinearMap``, a
    ``Diagonal``, or a ``LipschitzConstant`` that says whether it is exact, an upper bound or an estimate::

        @register_lipschitz_rule(MyLayer)
        def my_layer(module, input_shape):
            return LipschitzConstant(module.scale, kind="upper bound")

    Args:
        types: the types.
        traits: what else is known of them; without it nothing is, so that a layer is neither merged nor fused with
            others, and ``certify(executed=True)`` refuses it.
    """

    def register(rule: _R) -> _R:
        global _registrations
        for kind in types:
            _RULES[kind] = Registered(rule, traits)
        _registrations += 1
        return rule

    return register


def register_by_name(*names: str, traits: Traits = _NOTHING) -> Callable[[_R], _R]:
    """Register a rule for classes of other packages, such as ``timm.layers.drop.DropPath``."""

    def register(rule: _R) -> _R:
        _RULES_BY_NAME.update(dict.fromkeys(names, Registered(rule, traits)))
        return rule

    return register


def lipschitz_rule(name: str, module: nn.Module, input_shape: tuple[int, ...]) -> Knowledge:
    """Apply the rule of ``module`` for an input of ``input_shape`` (without the batch).

    Raises:
        UnknownLayerError: there is no rule for its type.
        ArchitectureError: the rule refuses the module's settings.
        ConfigError: the rule gives something else than it should.
    """
    registered = _RULES.get(known_type(module))
    if registered is None:
        raise unknown(name, module)
    try:
        result = registered.rule(module, input_shape)
    except (ArchitectureError, ConfigError) as error:
        raise type(error)(f"{name or 'the module'}: {error}") from None
    if not isinstance(result, LinearMap | Diagonal | LipschitzConstant):
        raise ConfigError(f"the rule of {name} ({known_type(module).__name__}) gave {result!r}; see LipschitzConstant")
    return result


def registered_rule(kind: type[nn.Module]) -> Rule | None:
    """Return the rule that is registered for exactly this type; None if there is none."""
    registered = _RULES.get(kind)
    return None if registered is None else registered.rule


def traits_of(module: nn.Module) -> Traits:
    """Return what is known of ``module`` beside its constant: nothing if it has no rule."""
    registered = _RULES.get(known_type(module))
    return _NOTHING if registered is None else registered.traits


def registrations() -> int:
    """Return how often rules were registered, so that who keeps an answer sees that there may be another."""
    return _registrations


def has_rule(module: nn.Module) -> bool:
    """Return whether there is a rule for the type of ``module``."""
    return known_type(module) in _RULES


def known_type(module: nn.Module) -> type[nn.Module]:
    """Return the type by which rules are found.

    That is the module's own, or the one that was parametrized, or, of a subclass that computes nothing else, the class
    that it inherits its ``forward`` from.
    """
    kind = parametrize.type_before_parametrizations(module)
    if kind in _RULES:
        return kind
    by_name = _RULES_BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
    if by_name is not None:
        _RULES[kind] = by_name
        return kind
    base = next((base for base in kind.__mro__ if base in _RULES), None)
    return base if base is not None and _adds_nothing(kind, base) else kind


def _adds_nothing(kind: type, base: type) -> bool:
    """Return whether ``kind`` overrides nothing of ``base`` that it could compute with."""
    own = [value for between in kind.__mro__[: kind.__mro__.index(base)] for value in vars(between).values()]
    if any(isinstance(value, property) for value in own):
        return False
    # As they are found, wherever in the order of classes, and whatever kind of descriptor stands there.
    methods = [name for name in dir(base) if name not in _HARMLESS and callable(getattr(base, name, None))]
    return all(getattr_static(kind, name) is getattr_static(base, name) for name in methods)


# Methods that make or show a module.
_HARMLESS = (
    "__init__", "__repr__", "extra_repr", "reset_parameters", "__class_getitem__", "__class__", "__init_subclass__",
    "__subclasshook__", "__new__",
)  # fmt: skip


def is_dense(module: nn.Module) -> bool:
    """Return whether ``module`` is exactly a dense layer (parametrized or not), so that it can be a head."""
    return known_type(module) is nn.Linear


def unknown(name: str, module: nn.Module) -> UnknownLayerError:
    """Make the error for a module without a rule, with the remedy."""
    kind = type(module).__name__
    where = f"{name or 'the module'} is a {kind}"
    remedy = REMEDIES.get(known_type(module))
    if remedy is not None:
        return UnknownLayerError(f"{where}, {remedy}")
    return UnknownLayerError(
        f"{where}, whose Lipschitz constant is unknown; register a rule with "
        f"@gloro_fast.nn.register_lipschitz_rule({kind})"
    )


def require_spatial(module: nn.Module, input_shape: tuple[int, ...], spatial: int) -> None:
    """Refuse an input that does not have channels and ``spatial`` more dimensions: the batch would become one.

    Raises:
        ArchitectureError: names module and shape.
    """
    if len(input_shape) != 1 + spatial:
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it needs ({_LAYOUTS[spatial]})")


_LAYOUTS = {
    1: "channels, length",
    2: "channels, height, width",
    3: "channels, depth, height, width",
}
