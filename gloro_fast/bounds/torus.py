"""Bound a layer by its extension to a torus, where the Fourier transform takes it apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gloro_fast.bounds.axis import Axis, axes, padding_copies, without_idle_taps
from gloro_fast.bounds.dense import dense_norm
from gloro_fast.bounds.dense import work as dense_work
from gloro_fast.bounds.eigenvalue import largest_eigenvalue
from gloro_fast.bounds.layer import LayerBound
from gloro_fast.bounds.scaling import scale
from gloro_fast.bounds.symbol import Frequencies, SquaredSymbol
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rounding import add_up, sqrt_up
from gloro_fast.rules.registry import LinearMap

_EXCESS = 1e-7
# Tori beyond the first are tried until so much arithmetic is done: on two cores some two tenths of a second.
_AFFORDABLE = 1e10
# Over the layers of 2C2F, 4C3F and 6C2F with random weights, the smallest bound is up to 1 % below that of the first
# torus; N_0 + 2 beside these took at most 0.05 % more off it, for half as much time again.
_SIDES = 2
# Symbols are evaluated so many numbers at a time, 8 MB; verifying them takes some five times that. What is above 32 MB
# glibc takes from the system anew each time: that was a third of the time for matrices of order 512. A GPU needs more
# of them at once to be busy: 268 MB.
_CHUNK, _CHUNK_ON_GPU = 1 << 19, 1 << 24


@torch.no_grad()
def torus(name: str, layer: LinearMap, excess: float = _EXCESS) -> LayerBound:
    """Return a float >= the spectral norm of the real-arithmetic layer with these weights as the values they are.

    A dense layer is left to :func:`gloro_fast.bounds.dense.dense_norm`. A convolution:

    *Polyphase.* Taps that meet only padding are left out. Dilation splits off (:func:`gloro_fast.bounds.axis.axes`),
    and a stride becomes channels (:class:`gloro_fast.bounds.symbol.SquaredSymbol`); all exact. What is left along an
    axis maps cells Y to outputs y by the taps q = Y - y in [0, Q), where y is in [0, m) and Y in [Y_lo, Y_hi]. Where
    kernel <= stride, Q = 1 and the norm is that of one matrix.

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

    *Rounding.* ||K'(omega)||^2 is the largest eigenvalue of the squared symbol, which is a sum over offsets of taps.
    Its error is added, and the eigenvalue verified (:func:`gloro_fast.bounds.eigenvalue.largest_eigenvalue`).
    Everything is float64 on the weight's device, whose matrix product must be one of sums of products.

    Args:
        name: the layer's name, for the result.
        layer: weight of any floating dtype, dense or convolution in any number of dimensions.
        excess: how near to go to the largest norm of the matrices, relatively.
    """
    scaled = scale(layer.weight)
    if isinstance(scaled, float):
        return LayerBound(name, scaled, "torus", "upper bound")
    dense = layer.geometry.is_dense
    bound = dense_norm(scaled, excess) if dense else _bound(scaled.weight, layer.geometry, excess)
    return LayerBound(name, scaled.unscale_up(bound), "torus", "upper bound")


def work(layer: LinearMap) -> float:
    """Return about as many floating-point operations as ``torus`` takes; the values of the weight do not matter."""
    if layer.geometry.is_dense:
        return dense_work(min(layer.weight.shape), max(layer.weight.shape))
    weight, geometry = without_idle_taps(layer.weight.detach(), layer.geometry)
    kernel = weight.reshape(geometry.groups, -1, *weight.shape[1:])
    _, extents = _strides(kernel, geometry)
    # Two multiplications and additions for half of the pairs of taps.
    rows, columns = _sizes(kernel, geometry)
    forming = float(len(kernel)) * rows**2 * columns * math.prod(extents) ** 2
    return forming + sum(_affordable(kernel, geometry, _tori_of(kernel, geometry)))


def _bound(weight: Tensor, geometry: Geometry, excess: float) -> float:
    weight, geometry = without_idle_taps(weight, geometry)
    kernel = weight.reshape(geometry.groups, -1, *weight.shape[1:])
    if geometry.padding_mode == "circular":
        return _circular(kernel, geometry, excess)
    tori = _tori_of(kernel, geometry)
    if not tori:
        # No output reads an input.
        return 0.0
    strides, _ = _strides(kernel, geometry)
    symbol = SquaredSymbol.of(kernel, [list(range(taps)) for taps in kernel.shape[3:]], strides)
    best = math.inf
    for frequencies in tori[: len(_affordable(kernel, geometry, tori))]:
        best = min(best, _largest(symbol, frequencies, excess, best))
    return sqrt_up(add_up(best, symbol.error))


def _strides(kernel: Tensor, geometry: Geometry) -> tuple[list[int], list[int]]:
    """Return the strides along every axis without dilation, and how many taps are left after the polyphase."""
    strides = [step // math.gcd(step, gap) for step, gap in zip(geometry.stride, geometry.dilation, strict=True)]
    return strides, [(taps - 1) // step + 1 for taps, step in zip(kernel.shape[3:], strides, strict=True)]


def _sizes(kernel: Tensor, geometry: Geometry) -> tuple[int, int]:
    """Return the sides of the symbol's matrices, the smaller first."""
    strides, _ = _strides(kernel, geometry)
    sides = sorted((kernel.shape[1], kernel.shape[2] * math.prod(strides)))
    return sides[0], sides[1]


def _tori_of(kernel: Tensor, geometry: Geometry) -> list[list[Frequencies]]:
    """List the tori to try; none where no output reads an input."""
    split = [axes(geometry, taps, dim) for dim, taps in enumerate(kernel.shape[3:])]
    if not all(split):
        return []
    _, extents = _strides(kernel, geometry)
    return list(_tori([max(_side(problem) for problem in axis) for axis in split], extents))


def _affordable(kernel: Tensor, geometry: Geometry, tori: list[list[Frequencies]]) -> list[float]:
    """Return the work of the tori that are affordable, the first in any case."""
    order, _ = _sizes(kernel, geometry)
    # A factorisation and its residual, estimates, and what a small matrix takes all the same.
    each = len(kernel) * (3.0 * order**3 + 900.0 * order**2 + 1e4)
    chosen: list[float] = []
    for frequencies in tori:
        work = each * math.prod(len(axis.multiples) for axis in frequencies)
        if chosen and sum(chosen) + work > _AFFORDABLE:
            break
        chosen.append(work)
    return chosen


def _side(axis: Axis) -> int:
    """Return N_0: the least side of a torus that contains the layer along this axis."""
    # Tap 0 of output 0 is to be at cell 0: inputs are counted from there.
    first, last = -axis.offset // axis.stride, (axis.inputs - 1 - axis.offset) // axis.stride
    extent = (axis.taps - 1) // axis.stride + 1
    # Only cells between these are read.
    first, last = max(first, 0), min(last, axis.outputs - 1 + extent - 1)
    return max(last + 1, extent - 1 + axis.outputs - first, 1)


def _tori(sides: list[int], extents: list[int]) -> Iterator[list[Frequencies]]:
    """List the tori to try. Along an axis with one tap the symbol is constant, and one frequency is enough."""
    twists = itertools.product(*((0, 1) if extent > 1 else (0,) for extent in extents))
    for more, twist in itertools.product(range(_SIDES) if max(extents) > 1 else (0,), twists):
        torus = [side + more if extent > 1 else 1 for side, extent in zip(sides, extents, strict=True)]
        yield _grid(torus, twist)


def _grid(sides: list[int], twists: tuple[int, ...]) -> list[Frequencies]:
    """Return the frequencies of a torus, without the negatives of others: the first axis is halved."""
    both = zip(sides, twists, strict=True)
    return [Frequencies.of_torus(side, twist, half=axis == 0) for axis, (side, twist) in enumerate(both)]


def _largest(symbol: SquaredSymbol, frequencies: list[Frequencies], excess: float, ceiling: float) -> float:
    """Bound the eigenvalues of the computed symbol at all of these frequencies, some rows of the grid at a time."""
    chunk = _CHUNK_ON_GPU if symbol.even.is_cuda else _CHUNK
    found = 0.0
    for part in _parts(frequencies, max(1, chunk // symbol.even[0].numel())):
        # Of the square, twice the excess.
        found = largest_eigenvalue(symbol.at(part), 2 * excess, found, ceiling)
    return found


def _parts(frequencies: list[Frequencies], most: int) -> Iterator[list[Frequencies]]:
    """Split a grid into parts of at most so many frequencies, 1 or more."""
    first, rest = frequencies[0], frequencies[1:]
    inner = math.prod(len(axis.multiples) for axis in rest)
    if inner > most:
        for multiple in first.multiples:
            one = Frequencies(first.side, range(multiple, multiple + 1))
            yield from ([one, *part] for part in _parts(rest, most))
        return
    rows = most // inner
    for start in range(0, len(first.multiples), rows):
        yield [Frequencies(first.side, first.multiples[start : start + rows]), *rest]


def _circular(kernel: Tensor, geometry: Geometry, excess: float) -> float:
    """Bound a circularly padded convolution, by its own torus and by that of its padded input."""
    spatial = range(len(geometry.stride))
    sizes, taps = geometry.input_shape[1:], kernel.shape[3:]
    outputs = geometry.output_sizes(taps)
    strides = [geometry.stride[dim] if sizes[dim] % geometry.stride[dim] == 0 else 1 for dim in spatial]
    positions = [[geometry.dilation[dim] * tap for tap in range(taps[dim])] for dim in spatial]
    symbol = SquaredSymbol.of(kernel, positions, strides)
    whole = _grid([size // step for size, step in zip(sizes, strides, strict=True)], (0,) * len(sizes))
    # So often an input is read from at most: outputs y read alike where stride * y agrees modulo n.
    times = math.prod(-(-outputs[dim] * geometry.stride[dim] // sizes[dim]) for dim in spatial)
    own = sqrt_up(add_up(_largest(symbol, whole, excess, math.inf), symbol.error)) * sqrt_up(times)
    padded = [size + sum(pads) for size, pads in zip(sizes, geometry.padding, strict=True)]
    unpadded = Geometry(
        (geometry.input_shape[0], *padded), geometry.stride, ((0, 0),) * len(sizes), geometry.dilation, geometry.groups
    )
    # The padding is a linear map by itself, whose norm is the root of how often an entry appears.
    other = _bound(kernel.flatten(0, 1), unpadded, excess) * sqrt_up(padding_copies(geometry))
    return math.nextafter(min(own, other), math.inf)
