"""What a method found out about one layer, and about all layers before the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gloro_fast.rules.registry import LinearMap


@dataclass(frozen=True)
class LayerBound:
    """The Lipschitz constant of one layer as a method found it.

    Attributes:
        name: the layer's name in the module.
        value: the constant; inf where the method failed, which certifies nothing.
        method: the method's name, or ``"rule"`` for a constant known beforehand.
        kind: ``"exact"``, ``"upper bound"`` or ``"estimate"``.
        iterations: how many iterations it took, 0 where that means nothing.
        converged: whether the method's own stopping rule was met.
    """

    name: str
    value: float
    method: str
    kind: str
    iterations: int = 0
    converged: bool = True


@dataclass(frozen=True)
class NetworkBound:
    """The Lipschitz constant of everything before the last layer.

    Attributes:
        lipschitz: what the constants of the layers make together, rounded up.
        method: the method that was asked for.
        kind: the weakest kind among the layers and what follows the head.
        layers: one entry a layer.
    """

    lipschitz: float
    method: str
    kind: str
    layers: tuple[LayerBound, ...]

    @property
    def label(self) -> str:
        """The method as it must be printed beside every number that rests on it."""
        return f"{self.method} (estimate)" if self.kind == "estimate" else self.method


Method = Callable[[str, LinearMap], LayerBound]
