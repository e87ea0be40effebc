"""Distances between rows on the GPU, rounded up: ``gloro_fast.ops.head_difference_bounds_op`` as a Triton kernel.

What is proven there holds for any order of sums, and for fused multiply-adds, which round once where two operations
round twice. The order here is one that the shape alone decides.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .float64_math import next_up
from .head_differences import PairTiles
from .launch_table import on_device_of

_INTEGERS = {2: tl.int16, 4: tl.int32, 8: tl.int64}
_UNIT_ROUNDOFF = tl.constexpr(2.0**-53)
_SMALLEST = tl.constexpr(2.0**-1022)
_SMALLEST_FLOAT32 = tl.constexpr(2.0**-126)
_SAFE_DISTANCE = tl.constexpr(1e-140)


@triton.jit
def _tiles_of(weight, i, j, start, rows, columns, COLUMNS: tl.constexpr):
    """Load the rows i and j from column ``start`` on, (I, 1, COLUMNS) and (1, J, COLUMNS), zeros beyond."""
    column = start + tl.arange(0, COLUMNS)
    inside = (column < columns)[None, :]
    of_i = tl.load(weight + i[:, None].to(tl.int64) * columns + column, (i < rows)[:, None] & inside, 0)
    of_j = tl.load(weight + j[:, None].to(tl.int64) * columns + column, (j < rows)[:, None] & inside, 0)
    return of_i[:, None, :], of_j[None, :, :]


@triton.jit
def _as_float64(columns):
    return (tl.zeros((1, 1), tl.int32) + columns).to(tl.float64)  # Triton makes an argument of 1 a constant


@triton.jit
def _enlarged(distance, columns, SMALLEST: tl.constexpr):
    """Enlarge by 1 + 2 (d + 8) u, add sqrt(d) 4 s, and round up to a normal number."""
    width = _as_float64(columns)
    bound = distance * (1.0 + (width + 8.0) * (2.0 * _UNIT_ROUNDOFF)) + tl.sqrt(width) * (4.0 * SMALLEST)
    above = next_up(bound)
    # Not tl.maximum, which loses NaN.
    return tl.where(above < _SMALLEST, _SMALLEST, above)


@triton.jit(do_not_specialize=["rows"])
def pair_bounds(
    weight, bounds, rows, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INTEGER: tl.constexpr,
):  # fmt: skip
    """Bound the distances of a tile of pairs on or above the diagonal, and write them to both of their places."""
    if tl.program_id(1) < tl.program_id(0):
        return
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    SMALLEST: tl.constexpr = _SMALLEST if weight.dtype.element_ty == tl.float64 else _SMALLEST_FLOAT32
    total = tl.zeros((ROWS, ROWS, COLUMNS), tl.float64)
    for start in range(0, columns, COLUMNS):
        of_i, of_j = _tiles_of(weight, i, j, start, rows, columns, COLUMNS)
        apart = of_i.to(tl.float64) - of_j.to(tl.float64)
        total += apart * apart
    distance = tl.sqrt(tl.sum(total, 2))
    bound = _enlarged(distance, columns, SMALLEST)
    both = (i < rows)[:, None] & (j < rows)[None, :]
    own = i[:, None] == j[None, :]
    near = both & (own == 0) & (distance < _SAFE_DISTANCE)
    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:  # squares may have underflowed: sqrt(d) max_k |w_ik - w_jk|
        largest = tl.zeros((ROWS, ROWS, COLUMNS), tl.float64)
        differ = tl.zeros((ROWS, ROWS, COLUMNS), tl.int32)
        for start in range(0, columns, COLUMNS):
            of_i, of_j = _tiles_of(weight, i, j, start, rows, columns, COLUMNS)
            largest = tl.maximum(largest, tl.abs(of_i.to(tl.float64) - of_j.to(tl.float64)))
            # By their bits: hardware that flushes subnormals to zero takes different numbers for equal ones.
            differ |= (of_i.to(INTEGER, bitcast=True) != of_j.to(INTEGER, bitcast=True)).to(tl.int32)
        wider = _enlarged(tl.max(largest, 2) * tl.sqrt(_as_float64(columns)), columns, SMALLEST)
        bound = tl.where(near, tl.where(tl.max(differ, 2) > 0, wider, 0.0), bound)
    bound = tl.where(own, 0.0, bound)
    tl.store(bounds + i[:, None].to(tl.int64) * rows + j[None, :], bound, both)
    tl.store(bounds + j[None, :].to(tl.int64) * rows + i[:, None], bound, both)


def head_difference_bounds(weight: Tensor) -> Tensor:
    """Return the bounds: the CUDA implementation of the op ``gloro_fast::head_difference_bounds``.

    Args:
        weight: (m, d) of float64, float32, bfloat16 or float16.

    Returns:
        (m, m) float64, and nothing as large beside it.

    Raises:
        RuntimeError: another shape or type.
    """
    if weight.dim() != 2 or not weight.is_floating_point() or weight.itemsize not in _INTEGERS:
        raise RuntimeError(
            "head_difference_bounds: weight must be (classes, features) of float64, float32, bfloat16 or float16, got"
            f" {weight.dtype} {tuple(weight.shape)}"
        )
    weight = weight.contiguous()
    rows, columns = weight.shape
    bounds = weight.new_empty(rows, rows, dtype=torch.float64)
    if rows:
        tiles = PairTiles.of(rows)
        with on_device_of(weight):
            # Half the columns of float32 have the same bytes.
            pair_bounds[(tiles.count, tiles.count)](
                weight, bounds, rows, columns,
                ROWS=tiles.rows, COLUMNS=tiles.columns // 2, INTEGER=_INTEGERS[weight.itemsize],
                num_warps=tiles.warps,
            )  # fmt: skip
    return bounds
