"""The methods by name, and how the constants of layers make that of a network."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from gloro_fast.bounds.auto import auto, tight
from gloro_fast.bounds.auto import work as bound_work
from gloro_fast.bounds.cholesky import cholesky
from gloro_fast.bounds.diagonal import diagonal_bound
from gloro_fast.bounds.layer import LayerBound, Method, NetworkBound
from gloro_fast.bounds.power import power
from gloro_fast.bounds.torus import torus
from gloro_fast.bounds.trivial import trivial
from gloro_fast.errors import ConfigError, nearest
from gloro_fast.rounding import add_up, product_up
from gloro_fast.rules.registry import KINDS, Diagonal, Knowledge, LinearMap

METHODS: dict[str, Method] = {
    "auto": auto,
    "tight": tight,
    "cholesky": cholesky,
    "torus": torus,
    "trivial": trivial,
    "power": power,
}
"""The methods by name: each takes the name of a layer and its linear map, and returns a ``LayerBound``."""

DEFAULT_METHOD = "auto"
"""The method where none is named."""

_log = logging.getLogger(__name__)


def check_method(method: str) -> None:
    """Refuse the name of a method that does not exist.

    Raises:
        ConfigError: suggests the nearest name.
    """
    if method not in METHODS:
        raise ConfigError(f"there is no bound method {method!r}{nearest(method, METHODS)}")


def bound_network(
    layers: Iterable[tuple[str, Knowledge]],
    method: str,
    compose: Callable[[Sequence[float]], float] = product_up,
    progress: Callable[[int, int, str], None] | None = None,
) -> NetworkBound:
    """Bound layers one by one, and what they make together (Leino et al. 2021, Equation 2).

    Args:
        layers: (name, what its rule says) of everything before the last layer.
        method: a name in ``METHODS``, used for the linear layers.
        compose: gives the constant of the whole, rounded up, from those of the layers; by default their product,
            as for a sequence.
        progress: called after each layer with how many are done, how many there are, and its name.

    Returns:
        The constant of the whole, rounded up. It is a bound only as far as every layer's constant is: ``kind`` tells.

    Raises:
        ConfigError: there is no such method.
    """
    check_method(method)
    layers = list(layers)
    found: list[LayerBound] = []
    seconds: list[float] = []
    for done, (name, layer) in enumerate(layers, start=1):
        begin = time.perf_counter()
        found.append(_bound_layer(name, layer, method))
        seconds.append(time.perf_counter() - begin)
        if _log.isEnabledFor(logging.INFO):
            bound = found[-1]
            _log.info("%s by %s: %.6g, %.2f s", _described(name, layer), bound.method, bound.value, seconds[-1])
        if progress is not None:
            progress(done, len(layers), name)
    if layers:
        longest = max(range(len(layers)), key=seconds.__getitem__)
        _log.info(
            "bounded %d layers, %.2f s; the longest took %.2f s: %s",
            len(layers),
            sum(seconds),
            seconds[longest],
            found[longest].name,
        )
    kind = max((layer.kind for layer in found), key=KINDS.index, default="exact")
    return NetworkBound(compose([layer.value for layer in found]), method, kind, tuple(found))


def _described(name: str, layer: Knowledge) -> str:
    """Name a layer and what the time goes with."""
    if not isinstance(layer, LinearMap):
        return name
    weight, image = ("x".join(map(str, shape)) for shape in (layer.weight.shape, layer.geometry.input_shape))
    return f"{name}, {weight} on {image} (auto: {bound_work(layer):.1e} operations),"


def _bound_layer(name: str, layer: Knowledge, method: str) -> LayerBound:
    if isinstance(layer, LinearMap):
        bound = METHODS[method](name, layer)
        return dataclasses.replace(bound, value=product_up([add_up(bound.value, layer.error), layer.factor]))
    if isinstance(layer, Diagonal):
        return diagonal_bound(name, layer)
    return LayerBound(name, layer.value, "rule", layer.kind)
