"""Verify a bound on a layer's norm by a Cholesky factorisation whose residual is measured."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from gloro_fast.bounds.axis import Axis, axes, without_idle_taps
from gloro_fast.bounds.dense import dense_norm
from gloro_fast.bounds.dense import work as dense_work
from gloro_fast.bounds.lanczos import lanczos
from gloro_fast.bounds.layer import LayerBound
from gloro_fast.bounds.residual import pieces, residual_norm, subtract_product
from gloro_fast.bounds.row_blocks import RowBlocks
from gloro_fast.bounds.scaling import scale
from gloro_fast.bounds.torus import torus
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rounding import UNIT_ROUNDOFF, add_up, gamma, product_up, sqrt_up
from gloro_fast.rules.registry import LinearMap

_TIGHT = 2e-7
# The window of blocks that one step works on: 2^27 numbers are 1 GB, and it is held about twice.
_LARGEST_WINDOW = 1 << 27
_POINT = Axis(1, 1, 1, 1, 0)


@torch.no_grad()
def cholesky(name: str, layer: LinearMap, excess: float = _TIGHT) -> LayerBound:
    """Return a float >= the spectral norm of the real-arithmetic layer with these weights as the values they are.

    Let T be the layer as a matrix and H = T T^T. For any number s and any lower triangular L,

        s I - H = L L^T + E + F   =>   ||T||^2 = ||H|| <= s + ||E|| + ||F||,

    where E = B - L L^T is the residual for the matrix B that is stored, and F = (s I - H) - B the error of forming it.
    Nothing is asked of L, so that it does not matter how a library factorises or solves triangular systems (some invert
    diagonal blocks); Rump's theorem (2006), which bounds E beforehand, does ask for substitution. Here E is measured.
    s is a little above the square of an estimate; where it is too small, the factorisation fails, and a larger one is
    tried. With gamma_n = n u / (1 - n u):

    *Order.* H is block banded in the order (y, x, channel), with blocks of b entries (one row of pixels) and w blocks
    below the diagonal, so that row i of L has at most (w + 1) b entries.

    *Forming.* An entry of H is a sum of at most c = in * taps products: ||F|| <= gamma_c || |T| |T|^T || + u s, the
    last for s - H_ii, which is checked to be in [0, s].

    *Residual.* What block (J, I) of the window holds when column I is factorised is B_JI less the products of the w
    columns before: sums of w b + 1 terms. From that the program takes L_JI L_II^T, giving M_JI: sums of b + 1 terms. So
    |E - M| <= g (|B| + |L| |L|^T), entry by entry, with g = gamma_((w+1)b+2) >= gamma_(wb+1) + gamma_(b+1) + their
    product. As every entry of |L| |L|^T is at most l^2, the largest square sum of a row of L, and a row of
    it has at most (2w + 1) b entries,

        ||E|| <= ||M|| + g (s + (1 + gamma_c) || |T| |T|^T || + (2w + 1) b l^2),

    and E's diagonal gives l^2 <= (s (1 + g) + ||M||) / (1 - g). ||M|| is at most the largest Frobenius norm among its
    diagonal blocks plus 2 w times that among the panels below them. A norm of both together, the lower triangle of the
    block and the panel, serves for either.

    ||T||_1 ||T||_inf bounds || |T| |T|^T ||. Underflow takes less than the additions, rounded up, give. The constants
    are about 1e-8 of s for the largest layers of the paper, so that the result is within a relative 1e-6 of the norm.
    Everything is float64 on the weight's device; only matrix products have to be sums of products.

    A dense layer is a single block (:func:`gloro_fast.bounds.dense.dense_norm`). A convolution is split at groups and
    dilation, both exact, and turned round (T^T T, stride 1) or on its side where the blocks are then smaller. Circular
    and three-dimensional convolutions, and blocks beyond 1 GB, go to ``torus``.

    Args:
        name: the layer's name, for the result.
        layer: weight of any floating dtype.
        excess: how far above the estimate to verify first, relatively; it is also how near that has to come.
    """
    scaled = scale(layer.weight)
    if isinstance(scaled, float):
        return LayerBound(name, scaled, "cholesky", "upper bound")
    if layer.geometry.is_dense:
        return LayerBound(name, scaled.unscale_up(dense_norm(scaled, excess)), "cholesky", "upper bound")
    weight, geometry = without_idle_taps(scaled.weight, layer.geometry)
    problems = _problems(weight, geometry)
    if problems is None:
        return torus(name, layer)
    bound = _search(weight.contiguous(), geometry, problems, excess)
    return LayerBound(name, scaled.unscale_up(bound), "cholesky", "upper bound")


def work(layer: LinearMap) -> float:
    """Return the multiplications and additions of a factorisation; inf where ``cholesky`` leaves a layer to ``torus``.

    Args:
        layer: weight and geometry; the values do not matter.
    """
    if layer.geometry.is_dense:
        return dense_work(min(layer.weight.shape), max(layer.weight.shape))
    problems = _problems(*without_idle_taps(layer.weight.detach(), layer.geometry))
    return math.inf if problems is None else sum(map(_work, problems))


def _search(weight: Tensor, geometry: Geometry, problems: list[RowBlocks], excess: float) -> float:
    """Return a float >= the norm of a layer of scaled weight that consists of these problems; inf where it fails."""
    # The estimate's error is about the square of its residual: on trained nets below 1e-8 for a residual of 3e-5.
    estimate, attempt = lanczos(weight, geometry, 30 * excess), 0
    while excess < 1.0:
        # Not of a zero estimate: what no output reads of has norm 0, and needs some bound that is not.
        square = max(estimate * (1 + excess), 2.0**-300) ** 2
        bound = max((_squared_norm(problem, square) for problem in problems), default=0.0)
        if bound < math.inf:
            return sqrt_up(bound)
        # The largest value hid from the first start, or is nearer to others than the tolerance.
        attempt += 1
        estimate = max(estimate, lanczos(weight, geometry, excess / 100, seed=attempt))
        excess *= 2 if attempt == 1 else 16
    return math.inf


def _problems(weight: Tensor, geometry: Geometry) -> list[RowBlocks] | None:
    """List the independent problems that the layer consists of, each turned as is cheapest; None if it is not ours."""
    spatial = len(geometry.stride)
    if spatial > 2 or geometry.padding_mode != "zeros":
        return None
    kernel = weight.reshape(geometry.groups, -1, *weight.shape[1:])
    split = [axes(geometry, taps, dim) for dim, taps in enumerate(kernel.shape[3:])]
    if spatial == 1:
        kernel, split = kernel[..., None], [*split, [_POINT]]
    found = [_cheapest(kernel, y, x) for y, x in itertools.product(*split)]
    return found if all(map(_fits, found)) else None


def _cheapest(kernel: Tensor, y: Axis, x: Axis) -> RowBlocks:
    turns = [RowBlocks(kernel, y, x), RowBlocks(kernel.mT, x, y)]
    if y.stride == x.stride == 1:
        flipped = kernel.transpose(1, 2).flip(3, 4)
        turns += [
            RowBlocks(flipped, y.transposed(), x.transposed()),
            RowBlocks(flipped.mT, x.transposed(), y.transposed()),
        ]
    return min(turns, key=_work)


def _work(blocks: RowBlocks) -> float:
    """Count what a factorisation takes: form, factor, solve, update, and the products for the residual."""
    groups, outputs, *_, width = blocks.kernel.shape
    band = blocks.band
    forming = 2.0 * (width * outputs) ** 2 * blocks.terms / width * (band + 1)
    step = blocks.size**3 * (1 / 3 + band + (band + 0.25) ** 2 + 0.5 + 1.25 * band)
    # A step of small blocks takes half a millisecond all the same.
    return groups * forming + blocks.y.outputs * max(groups * step, 1e7)


def _fits(blocks: RowBlocks) -> bool:
    return blocks.kernel.shape[0] * ((blocks.band + 1) * blocks.size) ** 2 <= _LARGEST_WINDOW


def _squared_norm(blocks: RowBlocks, square: float) -> float:
    """Return a float >= ||T||^2, about ``square``; inf where that is too small."""
    measured = _residual(blocks, square)
    if not measured < math.inf:
        return math.inf
    size, band = blocks.size, blocks.band
    absolute = blocks.absolute_norm()
    forming = gamma(blocks.terms)
    growth = gamma((band + 1) * size + 2)
    if growth > 0.5:
        return math.inf
    row = add_up(square * (1 + 2 * growth), measured) * (1 + 4 * growth)
    stored = add_up(square, absolute * (1 + 2 * forming))
    unmeasured = growth * (1 + 2.0**-40) * add_up(stored, (2 * band + 1) * size * row)
    return add_up(square, measured, unmeasured, 2 * forming * absolute, 2 * UNIT_ROUNDOFF * square)


def _residual(blocks: RowBlocks, square: float) -> float:
    """Factorise s I - H by columns of blocks; give a float >= ||M||, or inf where it fails."""
    size, band, rows = blocks.size, blocks.band, blocks.y.outputs
    groups = blocks.kernel.shape[0]
    # Lower triangle of the blocks that the columns to come still change.
    window = blocks.kernel.new_zeros(groups, (band + 1) * size, (band + 1) * size)
    for y in range(min(band + 1, rows)):
        if not _enter(window, blocks, y, 0, square):
            return math.inf
    measured = 0.0
    for y in range(rows):
        left = size * min(band, rows - 1 - y)
        corner, below = window[:, :size, :size], window[:, size : size + left, :size]
        factor, failed = torch.linalg.cholesky_ex(corner)
        if bool(failed.any()):
            return math.inf
        solved = torch.linalg.solve_triangular(factor.mT, below, upper=True, left=False)
        measured = max(measured, residual_norm(window[:, : size + left], torch.cat([factor, solved], dim=1)))
        rest = window[:, size : size + left, size : size + left]
        for start, stop in pieces(left):
            subtract_product(rest[:, start:, start:stop], solved[:, start:], solved[:, start:stop].mT)
        window[:, :left, :left] = rest.clone()
        window[:, left:] = 0
        if y + band + 1 < rows and not _enter(window, blocks, y + band + 1, y + 1, square):
            return math.inf
    # Of a diagonal block only the lower triangle was measured: twice that is more than the whole.
    return product_up([2.0 + 2 * band, measured])


def _enter(window: Tensor, blocks: RowBlocks, y: int, first: int, square: float) -> bool:
    """Write row ``y`` of s I - H into the window, whose first row is ``first``; False where a diagonal is negative."""
    size = blocks.size
    at = slice((y - first) * size, (y - first + 1) * size)
    for column in range(max(first, y - blocks.band), y):
        window[:, at, (column - first) * size : (column - first + 1) * size] = -blocks.block(column, y - column)
    diagonal = -blocks.block(y, 0)
    diagonal.diagonal(dim1=1, dim2=2).add_(square)
    window[:, at, at] = diagonal
    return bool((diagonal.diagonal(dim1=1, dim2=2) >= 0).all())
