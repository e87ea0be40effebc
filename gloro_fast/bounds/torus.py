"""Bound a layer by its extension to a torus, where the Fourier transform takes it apart."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gloro_fast.bounds.axis import Axis, axes, output_size, padding_copies
from gloro_fast.bounds.gram import gram
from gloro_fast.bounds.layer import LayerBound
from gloro_fast.bounds.rounding import add_up, sqrt_up
from gloro_fast.bounds.scaling import scale
from gloro_fast.bounds.symbol import Frequencies, Symbol
from gloro_fast.nn.rules import LinearMap
from gloro_fast.ops.geometry import Geometry

_TOLERANCE = 1e-7
# Tori beyond the first are tried until so much arithmetic is done: on two cores some two seconds.
_AFFORDABLE = 3e10
# Over the layers of 2C2F, 4C3F and 6C2F with random weights, the smallest bound is up to 1 % below that of the first
# torus; N_0 + 2 beside these took at most 0.05 % more off it, for half as much time again.
_SIDES = 2
# Symbols are evaluated so many numbers at a time, 32 MB; Gram iteration holds some ten times that.
_CHUNK = 1 << 22


@torch.no_grad()
def torus(name: str, layer: LinearMap, tolerance: float = _TOLERANCE) -> LayerBound:
    """Give a float >= the spectral norm of the real-arithmetic layer with these weights as the values they are.

    A dense layer goes through Gram iteration (:func:`gloro_fast.bounds.gram.gram`). A convolution:

    *Polyphase.* Dilation splits off (:func:`gloro_fast.bounds.axis.axes`), and a stride becomes channels
    (:class:`gloro_fast.bounds.symbol.Symbol`); both exact. What is left along an axis maps cells Y to outputs y by the
    taps q = Y - y in [0, Q), where y is in [0, m) and Y in [Y_lo, Y_hi]. Where kernel <= stride, Q = 1 and the norm is
    that of one matrix.

    *Torus.* Let C be the circular convolution of side N whose entries that wrap around the end carry the phase
    exp(i theta) more. If every D in [Y_lo - (m - 1), Y_hi] that is congruent to a tap modulo N is that very tap,
    no entry between those cells and outputs wraps, so that the layer is a submatrix of C and its norm at most C's.
    That is so where N > Y_hi (the taps beginning at 0) and N >= Q - 1 + m - Y_lo. The diagonal of
    phases exp(i theta Y / N) makes C circulant, with the symbol at the frequencies (2 pi j + theta) / N. So

        ||layer|| <= max over the frequencies of ||K'(omega)||,      for every such N and theta, for every axis:

    the smallest is taken over N in {N_0, N_0 + 1} and theta in {0, pi}. For a 3 x 3 kernel with
    SAME padding, N_0 = n + 1. The torus of side n is no bound: [-1, 2, -1] on n = 3 has norm 3.41, its circular
    convolution 3.0. The weights are real, so that half of the frequencies have the norms of the other half.

    *Circular padding.* With a stride that divides n (for every axis; else the outputs of stride 1, of which it
    takes a part), N = n and theta = 0 is the layer itself, but for rows that are left out (m < N) or repeated: the
    norm grows by at most the root of the number of times. Padding the input beforehand is tried too.

    *Rounding.* The symbol is a sum over the taps, with its error added, and every matrix's norm is bounded by Gram
    iteration. Everything is float64 on the weight's device, whose matrix product must be one of sums of products.

    Args:
        name: the layer's name, for the result.
        layer: weight of any floating dtype, dense or convolution in any number of dimensions.
        tolerance: how near Gram iteration goes to the norms of the matrices, relatively.
    """
    scaled = scale(layer.weight)
    if isinstance(scaled, float):
        return LayerBound(name, scaled, "torus", "upper bound")
    return LayerBound(name, scaled.unscale_up(_bound(scaled.weight, layer.geometry, tolerance)), "torus", "upper bound")


def work(layer: LinearMap) -> float:
    """Give about as many floating-point operations as ``torus`` takes; the values of the weight do not matter."""
    weight, geometry = layer.weight.detach(), layer.geometry
    if geometry.is_dense:
        return _work(1, *weight.shape)
    if geometry.padding_mode == "circular":
        geometry = dataclasses.replace(geometry, padding_mode="zeros")
    symbol, tori = _extensions(weight.reshape(geometry.groups, -1, *weight.shape[1:]), geometry)
    return sum(_affordable(symbol, tori))


def _bound(weight: Tensor, geometry: Geometry, tolerance: float) -> float:
    if geometry.is_dense:
        return gram(weight[None], None, tolerance)
    kernel = weight.reshape(geometry.groups, -1, *weight.shape[1:])
    if geometry.padding_mode == "circular":
        return _circular(kernel, geometry, tolerance)
    symbol, tori = _extensions(kernel, geometry)
    best = math.inf
    for frequencies in tori[: len(_affordable(symbol, tori))]:
        best = min(best, add_up(_largest(symbol, frequencies, tolerance, best), symbol.error))
    # Without a torus no output reads an input.
    return best if tori else 0.0


def _extensions(kernel: Tensor, geometry: Geometry) -> tuple[Symbol, list[list[Frequencies]]]:
    """Give the symbol of a zero-padded convolution, and the tori to try; none where no output reads an input."""
    split = [axes(geometry, taps, dim) for dim, taps in enumerate(kernel.shape[3:])]
    strides = [step // math.gcd(step, gap) for step, gap in zip(geometry.stride, geometry.dilation, strict=True)]
    symbol = Symbol.of(kernel, [list(range(taps)) for taps in kernel.shape[3:]], strides)
    if not all(split):
        return symbol, []
    sides = [max(_side(problem) for problem in axis) for axis in split]
    return symbol, list(_tori(sides, symbol.taps.shape[: symbol.spatial]))


def _affordable(symbol: Symbol, tori: list[list[Frequencies]]) -> list[float]:
    """Give the work of the tori that are affordable, the first in any case."""
    *_, rows, columns = symbol.taps.shape
    groups = symbol.taps.shape[symbol.spatial]
    chosen: list[float] = []
    for frequencies in tori:
        work = _work(groups * math.prod(len(axis.multiples) for axis in frequencies), rows, columns)
        if chosen and sum(chosen) + work > _AFFORDABLE:
            break
        chosen.append(work)
    return chosen


def _work(count: int, rows: int, columns: int) -> float:
    """Count six steps of all matrices; few go further."""
    return 36.0 * count * min(rows, columns) ** 2 * max(rows, columns)


def _side(axis: Axis) -> int:
    """Give N_0: the least side of a torus that contains the layer along this axis."""
    # Tap 0 of output 0 is to be at cell 0: inputs are counted from there.
    first, last = -axis.offset // axis.stride, (axis.inputs - 1 - axis.offset) // axis.stride
    extent = (axis.taps - 1) // axis.stride + 1
    # Only cells between these are read.
    first, last = max(first, 0), min(last, axis.outputs - 1 + extent - 1)
    return max(last + 1, extent - 1 + axis.outputs - first, 1)


def _tori(sides: list[int], extents: tuple[int, ...]) -> Iterator[list[Frequencies]]:
    """List the tori to try. Along an axis with one tap the symbol is constant, and one frequency is enough."""
    twists = itertools.product(*((0, 1) if extent > 1 else (0,) for extent in extents))
    for more, twist in itertools.product(range(_SIDES) if max(extents) > 1 else (0,), twists):
        torus = [side + more if extent > 1 else 1 for side, extent in zip(sides, extents, strict=True)]
        yield _grid(torus, twist)


def _grid(sides: list[int], twists: tuple[int, ...]) -> list[Frequencies]:
    """Give the frequencies of a torus, without the negatives of others: the first axis is halved."""
    both = zip(sides, twists, strict=True)
    return [Frequencies.of_torus(side, twist, half=axis == 0) for axis, (side, twist) in enumerate(both)]


def _largest(symbol: Symbol, frequencies: list[Frequencies], tolerance: float, ceiling: float) -> float:
    """Bound the norms of the computed symbol at all of these frequencies, some rows of the grid at a time."""
    first, rest = frequencies[0], frequencies[1:]
    size = symbol.taps[(0,) * symbol.spatial].numel()
    rows = max(1, _CHUNK // (size * math.prod(len(axis.multiples) for axis in rest)))
    found = 0.0
    for start in range(0, len(first.multiples), rows):
        part = Frequencies(first.side, first.multiples[start : start + rows])
        found = gram(*symbol.at([part, *rest]), tolerance, found, ceiling)
    return found


def _circular(kernel: Tensor, geometry: Geometry, tolerance: float) -> float:
    """Bound a circularly padded convolution, by its own torus and by that of its padded input."""
    spatial = range(len(geometry.stride))
    sizes, taps = geometry.input_shape[1:], kernel.shape[3:]
    outputs = [output_size(geometry, taps[dim], dim) for dim in spatial]
    strides = [geometry.stride[dim] if sizes[dim] % geometry.stride[dim] == 0 else 1 for dim in spatial]
    positions = [[geometry.dilation[dim] * tap for tap in range(taps[dim])] for dim in spatial]
    symbol = Symbol.of(kernel, positions, strides)
    whole = _grid([size // step for size, step in zip(sizes, strides, strict=True)], (0,) * len(sizes))
    # So often an input is read from at most: outputs y read alike where stride * y agrees modulo n.
    times = math.prod(-(-outputs[dim] * geometry.stride[dim] // sizes[dim]) for dim in spatial)
    own = add_up(_largest(symbol, whole, tolerance, math.inf), symbol.error) * sqrt_up(times)
    padded = [size + sum(pads) for size, pads in zip(sizes, geometry.padding, strict=True)]
    unpadded = Geometry(
        (geometry.input_shape[0], *padded), geometry.stride, ((0, 0),) * len(sizes), geometry.dilation, geometry.groups
    )
    # The padding is a linear map by itself, whose norm is the root of how often an entry appears.
    other = _bound(kernel.flatten(0, 1), unpadded, tolerance) * sqrt_up(padding_copies(geometry))
    return math.nextafter(min(own, other), math.inf)
