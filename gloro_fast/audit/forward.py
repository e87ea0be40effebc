"""Logits evaluated in float64 beside a bound on every element's error, and the executed radius from its formula.

The bounds here are element by element (running error analysis, Higham 2002, Section 3.3) and in norms, the smaller of
both; those of :mod:`gloro_fast.rounding_error` are in norms alone: two ways to the same thing. Only the radius of
executed certificates, a number of that formula, is computed as it says, from the constants in the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from gloro_fast.audit.layers import Affine, Array, Layer, Pairs, Rectifier
from gloro_fast.audit.spectral import UNIT

_TINY = {"float32": 2.0**-126, "float64": 2.0**-1022}
_UNITS = {"float32": 2.0**-24, "float64": UNIT}
_LARGEST = {"float32": (2 - 2.0**-23) * 2.0**127, "float64": (2 - 2.0**-52) * 2.0**1023}


@dataclass(frozen=True)
class Elements:
    """Activations (features, B), one column an image.

    Attributes:
        value: evaluated in float64.
        error: >= |value - real|.
        program: >= |what the program computes - real|.
        norm: (B,) >= ||what the program computes - real||_2.
    """

    value: Array
    error: Array
    program: Array
    norm: Array


def evaluate(layers: Sequence[Layer], images: Array, dtype: str, constants: Sequence[float] = ()) -> Elements:
    """Evaluate all layers.

    A sum of n products and a bias is off by at most gamma_{n+1} (|W| |x| + |b|) in any order, x being what goes in. The
    factors 2 cover the rounding of the bounds themselves, and of subnormals taken for 0.

    What the program is off before a layer, d, leaves it as W d: |W| |d| element by element, ||w_i|| ||d|| an element
    and ||W|| ||d|| in all. Absolute values lose what cancels, norms what lies in a few elements (a third of the
    tolerance on digits): the smaller counts.

    Args:
        layers: from images to logits.
        images: (features, B) numbers of the program's type.
        dtype: the program's, "float32" or "float64".
        constants: upper bounds on ||W||, one a layer from the first, as far as they are known.
    """
    zeros = np.zeros_like(images)
    state = Elements(images, zeros, zeros, np.zeros(images.shape[1]))
    known = [*constants, *[math.inf] * (len(layers) - len(constants))]
    for layer, constant in zip(layers, known, strict=True):
        state = _through(layer, state, dtype, constant)
    return state


def _through(layer: Layer, state: Elements, dtype: str, constant: float) -> Elements:
    match layer:
        case Affine():
            sizes, count = abs(layer.matrix), state.value.shape[1]
            moved: Array = sizes @ np.hstack([np.abs(state.value), state.error, state.program])
            here, error, program = (moved[:, start : start + count] for start in range(0, 3 * count, count))
            bias = np.abs(layer.bias)[:, None]
            own = _rounding(layer, here + bias, "float64", state.value)
            theirs = _rounding(layer, here + error + program + bias, dtype, state.value)
            wider = 1 + 4 * (layer.terms + 4) * UNIT
            rows = sparse.linalg.norm(layer.matrix, axis=1)[:, None]
            program = (np.minimum(program, rows * state.norm) + theirs) * wider
            norm = np.linalg.norm(program, axis=0)
            if constant < math.inf:
                norm = np.minimum(norm, constant * state.norm + np.linalg.norm(theirs, axis=0))
            norm *= 1 + 4 * (len(program) + 4) * UNIT
            return Elements(_moved(layer, state.value), (error + own) * wider, program, norm)
        case Pairs():
            error, program = _largest(state.error, layer), _largest(state.program, layer)
            return Elements(_moved(layer, state.value), error, program, state.norm)
    return Elements(_moved(layer, state.value), state.error, state.program, state.norm)


def _moved(layer: Layer, value: Array) -> Array:
    match layer:
        case Affine():
            out: Array = layer.matrix @ value + layer.bias[:, None]
            return out
        case Pairs():
            return _sorted(value, layer)
        case Rectifier():
            return np.maximum(value, 0.0)
    return value


def _rounding(layer: Affine, size: Array, dtype: str, value: Array) -> Array:
    flushed = 4 * _TINY[dtype] * (3 * layer.terms + 3 + layer.terms * (1 + np.abs(value).max(initial=0.0)))
    # Weights taken for 0 and inputs taken for 0 count with the largest of the others.
    heaviest = 4 * _TINY[dtype] * layer.terms * np.abs(layer.matrix.data).max(initial=0.0)
    off: Array = gamma(layer.terms + 1, dtype) * size + flushed + heaviest
    return off


def gamma(operations: int, dtype: str) -> float:
    """Return n u / (1 - n u)."""
    product = operations * _UNITS[dtype]
    return product / (1 - product) if product < 0.5 else math.inf


def _sorted(value: Array, layer: Pairs) -> Array:
    first, second = _split(value, layer)
    return _join(np.minimum(first, second), np.maximum(first, second), value)


def _largest(error: Array, layer: Pairs) -> Array:
    """Return both of a pair the larger bound: sorting moves neither further than the one that moves most."""
    both = np.maximum(*_split(error, layer))
    return _join(both, both, error)


def _split(value: Array, layer: Pairs) -> tuple[Array, Array]:
    pairs = value.reshape(layer.channels // 2, 2, -1, value.shape[1])
    return pairs[:, 0], pairs[:, 1]


def _join(first: Array, second: Array, like: Array) -> Array:
    joined: Array = np.stack([first, second], axis=1).reshape(like.shape)
    return joined


@dataclass(frozen=True)
class Constants:
    """What a certificate file says of a layer before the head: its Lipschitz constant and || |W| ||."""

    value: float
    absolute: float


def executed_radius(
    layers: Sequence[Layer],
    constants: Sequence[Constants],
    differences: Array,
    lipschitz: float,
    images: Array,
    prediction: Sequence[int],
    dtype: str,
) -> Array:
    """Return the radius (B,) of :meth:`gloro_fast.rounding_error.ExecutedNet.radii`, from its formula.

    That subtracts the error of the float64 evaluation three times, and this once, with less room for the rounding of
    the bounds: what it signed is below this.

    Args:
        layers: from images to logits.
        constants: one a layer before the head, or of all layers if no rows of a head were used.
        differences: (m, m) D_ij.
        lipschitz: K.
        images: (features, B).
        prediction: B.
        dtype: the program's.
    """
    count = images.shape[1]
    value, error = images, np.zeros(count)
    constant, slope, so_far, limit = np.zeros(count), 0.0, 1.0, np.full(count, np.inf)
    for layer, known in zip(layers, constants, strict=False):
        if isinstance(layer, Affine):
            seen, reach, rise = _reach(value, error, constant, slope, so_far)
            bias = float(np.linalg.norm(layer.bias))
            limit = np.minimum(limit, _room(known.absolute * reach + bias, known.absolute * rise, dtype))
            own = gamma(layer.terms + 1, "float64") * (known.absolute * seen + bias)
            theirs = gamma(layer.terms + 1, dtype) * (known.absolute * reach + bias)
            error = known.value * error + own
            constant = known.value * constant + theirs
            slope = known.value * slope + gamma(layer.terms + 1, dtype) * known.absolute * rise
            so_far *= known.value
        value = _moved(layer, value)
    rows, each, each_slope, each_error = np.ones(len(differences)), *(np.zeros((len(differences), 1)),) * 3
    if len(layers) > len(constants):
        head, *tail = layers[len(constants) :]
        assert isinstance(head, Affine)
        seen, reach, rise = _reach(value, error, constant, slope, so_far)
        rows, bias_of = np.linalg.norm(head.matrix.toarray(), axis=1), np.abs(head.bias)
        limit = np.minimum(
            limit, _room((rows[:, None] * reach + bias_of[:, None]).max(axis=0), float(rows.max()) * rise, dtype)
        )
        each = gamma(head.terms + 1, dtype) * (rows[:, None] * reach + bias_of[:, None])
        each_slope = gamma(head.terms + 1, dtype) * rows[:, None] * rise
        each_error = gamma(head.terms + 1, "float64") * (rows[:, None] * seen + bias_of[:, None])
        for layer in (head, *tail):
            value = _moved(layer, value)
    bounds = (error, each_error), (constant, each), (slope, each_slope)
    radius: Array = np.minimum(limit, _least(value, prediction, differences, lipschitz, *bounds))
    return radius


def _least(
    logits: Array,
    prediction: Sequence[int],
    differences: Array,
    lipschitz: float,
    error: tuple[Array, Array],
    constant: tuple[Array, Array],
    slope: tuple[float, Array],
) -> Array:
    own = differences[:, prediction]
    columns = np.arange(logits.shape[1])

    def pairs(before: Array | float, each: Array) -> Array:
        each = np.broadcast_to(each, logits.shape)
        total: Array = own * before + each + each[prediction, columns]
        return total

    gap = logits[prediction, columns] - logits - pairs(*error) - pairs(*constant)
    slopes = own * lipschitz + pairs(*slope)
    # Nothing limits an image where there is no slope below a positive gap.
    quotient = np.divide(np.maximum(gap, 0.0), slopes, out=np.where(gap > 0, np.inf, 0.0), where=slopes > 0)
    quotient[prediction, columns] = np.inf
    radius: Array = quotient.min(axis=0)
    return radius


def _reach(value: Array, error: Array, constant: Array, slope: float, so_far: float) -> tuple[Array, Array, float]:
    """Return ||value||, and constant and slope of what the program's activations cannot exceed."""
    seen: Array = np.linalg.norm(value, axis=0)
    return seen, seen + error + constant, so_far + slope


def _room(magnitude: Array, rise: float, dtype: str) -> Array:
    """Return the epsilon up to which a magnitude + rise * epsilon is at most an eighth of the largest number."""
    room: Array = np.maximum(_LARGEST[dtype] / 8 - magnitude, 0.0) / rise if rise else np.full(len(magnitude), np.inf)
    return room
