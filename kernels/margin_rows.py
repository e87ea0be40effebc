"""What the kernels of margin and margin_loss share: rows in and out, and their margin.

Every operation of ``margin_reference`` is there in its order and precision, so that the bits are the reference's; the
kernels are compiled with ``enable_fp_fusion=False``, which keeps products and sums apart.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .float32_math import INFINITY, is_finite, next_after
from .margin_tiles import RowTiles

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NO_PLACE = tl.constexpr(1 << 30)


@triton.jit
def first_largest(values, column, inside):
    """Return value and place as torch.argmax does: NaN counts as the largest, the first of equals wins."""
    is_nan = values != values
    largest = tl.max(tl.where(inside & (is_nan == 0), values, -INFINITY), 1)
    first = tl.min(tl.where(inside & (values == largest[:, None]), column, _NO_PLACE), 1)
    first_nan = tl.min(tl.where(inside & is_nan, column, _NO_PLACE), 1)
    has_nan = first_nan < _NO_PLACE
    return tl.where(has_nan, float("nan"), largest), tl.where(has_nan, first_nan, first)


@triton.jit
def load_rows(
    source, first_row, rows, classes,
    STAGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """Load rows as float32; staged: as one run of memory, dealt out to the tile on the chip."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    if STAGED:
        place = tl.arange(0, FLAT)
        run = tl.load(source + first_row * classes + place, place < tl.minimum(rows - first_row, ROWS) * classes, 0)
        index = tl.where(column < classes, row * classes + column, 0).to(tl.int32)
        values = tl.reshape(tl.gather(run, tl.reshape(index, (ROWS * COLUMNS,)), 0), (ROWS, COLUMNS))
    else:
        inside = (first_row + row < rows) & (column < classes)
        values = tl.load(source + (first_row + row) * classes + column, inside, 0)
    return values.to(tl.float32)


@triton.jit
def store_rows(
    target, values, first_row, rows, classes,
    STAGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """Store a tile as :func:`load_rows` loads it."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    if STAGED:
        place = tl.arange(0, FLAT)
        count = tl.minimum(rows - first_row, ROWS) * classes
        index = tl.where(place < ROWS * classes, place // classes * COLUMNS + place % classes, 0).to(tl.int32)
        run = tl.gather(tl.reshape(values, (ROWS * COLUMNS,)), index, 0)
        tl.store(target + first_row * classes + place, run, place < count)
    else:
        inside = (first_row + row < rows) & (column < classes)
        tl.store(target + (first_row + row) * classes + column, values, inside)


@triton.jit
def distances(differences, place, live, classes, STAGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load row ``place`` of D for each row; staged: all of D once, dealt out on the chip."""
    column = tl.arange(0, COLUMNS)[None, :]
    if STAGED:
        whole = tl.arange(0, COLUMNS * COLUMNS)
        table = tl.load(differences + whole, whole < classes * classes, 0)
        index = tl.where(column < classes, place[:, None] * classes + column, 0).to(tl.int32)
        result = tl.reshape(tl.gather(table, tl.reshape(index, (ROWS * COLUMNS,)), 0), (ROWS, COLUMNS))
    else:
        address = place[:, None].to(tl.int64) * classes + column
        result = tl.load(differences + address, live[:, None] & (column < classes), 0)
    return result


@triton.jit
def margin_of_rows(values, distance, column, inside, top, prediction, lipschitz, epsilon):
    """Return (bottom, radius, runner_up), each operation as in ``margin_reference``."""
    slope = lipschitz * distance
    gap = top[:, None] - values
    other = inside & (column != prediction[:, None])
    doubtful = inside & ((is_finite(slope) & is_finite(gap)) == 0)
    in_doubt = tl.max(doubtful.to(tl.int32), 1) > 0
    quotient = tl.where(other, tl.where(gap > 0, tl.div_rn(gap, slope), 0.0), INFINITY)
    radius = tl.where(in_doubt, 0.0, tl.min(quotient, 1))
    candidate = values + epsilon * slope
    _, runner_up = first_largest(tl.where(other, candidate, -INFINITY), column, inside)
    raw = tl.sum(tl.where(column == runner_up[:, None], candidate, 0.0), 1)
    certified = radius > epsilon
    limit = next_after(top, certified == 0)
    beyond = tl.where(certified, limit < raw, limit > raw)
    bottom = tl.where(limit != limit, limit, tl.where(beyond, limit, raw))
    return bottom, radius, tl.where(is_finite(raw), runner_up, -1)


@triton.jit
def rows_of_program(program, rows, vectors, VECTOR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return where a program's tile lies: (classes, first_row, row, live, column); the cut is that of ``RowTiles``."""
    first_row = program.to(tl.int64) * ROWS
    row = first_row + tl.arange(0, ROWS)
    return vectors * VECTOR, first_row, row, row < rows, tl.arange(0, COLUMNS)[None, :]


@triton.jit
def margin_of_program(
    logits, differences, lipschitz, epsilon, rows, classes, first_row, live, column,
    STAGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """Load a tile and take its margin: (logits, largest, prediction, bottom, radius, runner_up)."""
    inside = column < classes
    values = load_rows(logits, first_row, rows, classes, STAGED, ROWS, COLUMNS, FLAT)
    top, j = first_largest(values, column, inside)
    distance = distances(differences, j, live, classes, STAGED, ROWS, COLUMNS)
    bottom, radius, i = margin_of_rows(values, distance, column, inside, top, j, tl.load(lipschitz), epsilon)
    return values, top, j, bottom, radius, i


def checked(logits: Tensor, differences: Tensor, lipschitz: Tensor, **numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and D contiguous; ``numbers`` are float64, by name."""
    if logits.dim() != 2 or not 2 <= logits.shape[1] <= RowTiles.MOST_CLASSES or logits.dtype not in DTYPES:
        raise RuntimeError(
            f"margin: logits must be (batch, classes) of float32, bfloat16 or float16 with 2 to "
            f"{RowTiles.MOST_CLASSES} classes, got {logits.dtype} {tuple(logits.shape)}"
        )
    square = (logits.shape[1],) * 2
    if differences.shape != square or differences.dtype != torch.float32 or differences.device != logits.device:
        raise RuntimeError(f"margin: differences must be {square} of float32, beside the logits")
    if lipschitz.numel() != 1 or lipschitz.dtype != torch.float32 or lipschitz.device != logits.device:
        raise RuntimeError("margin: lipschitz must be one float32 number, beside the logits")
    for name, number in numbers.items():
        if number.numel() != 1 or number.dtype != torch.float64 or number.device != logits.device:
            raise RuntimeError(f"margin: {name} must be one float64 number, beside the logits")
    return logits.contiguous(), differences.contiguous()
