"""The smallest bound that is affordable, layer by layer."""

from __future__ import annotations

import math

from gloro_fast.bounds.cholesky import cholesky
from gloro_fast.bounds.cholesky import work as cholesky_work
from gloro_fast.bounds.layer import LayerBound
from gloro_fast.bounds.torus import torus
from gloro_fast.bounds.torus import work as torus_work
from gloro_fast.bounds.trivial import trivial
from gloro_fast.rules.registry import LinearMap

# Floating-point operations; two cores do some 40e9 a second. Counted, not timed, so that a layer gets the same bound
# everywhere.
_UNDER_A_SECOND = 4e10
_MINUTES = 2e13
_EXCESS = 1e-6


def auto(name: str, layer: LinearMap) -> LayerBound:
    """Return a float >= the spectral norm of the real-arithmetic layer with these weights as the values they are.

    ``cholesky`` for dense layers and wherever its factorisation takes under a second, within some 1e-6 of the norm;
    elsewhere the smaller of ``torus`` and ``trivial``. The result names the method that found it.

    Args:
        name: the layer's name, for the result.
        layer: weight of any floating dtype.
    """
    if layer.geometry.is_dense or cholesky_work(layer) <= _UNDER_A_SECOND:
        found = cholesky(name, layer, _EXCESS)
        if found.value < math.inf:
            return found
    return min(torus(name, layer), trivial(name, layer), key=lambda bound: bound.value)


def work(layer: LinearMap) -> float:
    """Return about as many floating-point operations as ``auto`` takes; the values of the weight do not matter."""
    factorisation = cholesky_work(layer)
    return factorisation if layer.geometry.is_dense or factorisation <= _UNDER_A_SECOND else torus_work(layer)


def tight(name: str, layer: LinearMap) -> LayerBound:
    """Return a float >= the spectral norm of the real-arithmetic layer with these weights as the values they are.

    As ``auto``, but ``cholesky`` wherever it takes minutes at most, within a relative 1e-6 of the norm.

    Args:
        name: the layer's name, for the result.
        layer: weight of any floating dtype.
    """
    if layer.geometry.is_dense or cholesky_work(layer) <= _MINUTES:
        found = cholesky(name, layer)
        if found.value < math.inf:
            return found
    return min(torus(name, layer), trivial(name, layer), key=lambda bound: bound.value)
