"""Distances between rows on the GPU: what ``gloro_fast.ops.head_differences`` defines, as Triton kernels.

Differences are taken directly and added up in float32, in an order that the shape alone decides. Tiles are of three
dimensions, (rows, other rows, columns), and are added up over the last or the middle one after the loop: within it a
thread of a wide tile has two operations on each of its 32 sums for six accesses of 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import Launch, place_of, planned

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A tile of pairs has an element a thread: of one with fewer Triton has every thread load all that it multiplies with.
_ROWS, _COLUMNS, _WARPS = 16, 32, 8


@dataclass(frozen=True)
class PairTiles:
    """Tiles of ``rows`` by ``rows`` pairs that a program goes through in steps of ``columns`` numbers.

    A head of few classes has few pairs: small tiles then give more programs, and long steps keep more in flight.
    """

    rows: int
    columns: int
    warps: int
    count: int

    @classmethod
    def of(cls, count: int) -> PairTiles:
        """Cut the pairs of ``count`` rows."""
        rows, columns, warps = (4, 256, 4) if count <= 32 else (_ROWS, _COLUMNS, _WARPS)
        return cls(rows, columns, warps, triton.cdiv(count, rows))


@triton.jit(do_not_specialize=["rows"])  # unlike that of columns, its factors widen no access
def pair_distances(
    weight, differences, rows, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Take the distances of a tile of pairs on or above the diagonal, and write them to both of their places."""
    if tl.program_id(1) < tl.program_id(0):
        return
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, ROWS, COLUMNS), tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (column < columns)[None, :]
        of_i = tl.load(weight + i[:, None].to(tl.int64) * columns + column, (i < rows)[:, None] & inside, 0)
        of_j = tl.load(weight + j[:, None].to(tl.int64) * columns + column, (j < rows)[:, None] & inside, 0)
        apart = of_i.to(tl.float32)[:, None, :] - of_j.to(tl.float32)[None, :, :]
        total += apart * apart
    distance = tl.sqrt_rn(tl.sum(total, 2))
    both = (i < rows)[:, None] & (j < rows)[None, :]
    tl.store(differences + i[:, None].to(tl.int64) * rows + j[None, :], distance, both)
    tl.store(differences + j[None, :].to(tl.int64) * rows + i[:, None], distance, both)


@triton.jit(do_not_specialize=["rows"])
def rows_gradient(
    grad, weight, differences, grad_weight, rows, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add up (G_ij + G_ji) (w_i - w_j) / D_ij over all j, ROWS at a time, for a tile of rows i by columns."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (column < columns)[None, :]
    own = i[:, None].to(tl.int64) * columns + column
    of_i = tl.load(weight + own, (i < rows)[:, None] & inside, 0).to(tl.float32)
    total = tl.zeros((ROWS, ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        j = start + tl.arange(0, ROWS)
        both = (i < rows)[:, None] & (j < rows)[None, :]
        place = i[:, None].to(tl.int64) * rows + j[None, :]
        across = j[None, :].to(tl.int64) * rows + i[:, None]
        slope = tl.load(grad + place, both, 0) + tl.load(grad + across, both, 0)
        distance = tl.load(differences + place, both, 0)
        reaches = (slope != 0) & (distance != 0)
        slope = tl.where(reaches, tl.div_rn(slope, tl.where(reaches, distance, 1.0)), 0.0)
        of_j = tl.load(weight + j[:, None].to(tl.int64) * columns + column, (j < rows)[:, None] & inside, 0)
        total += slope[:, :, None] * (of_i[:, None, :] - of_j.to(tl.float32)[None, :, :])
    tl.store(grad_weight + own, tl.sum(total, 1), (i < rows)[:, None] & inside)


def head_differences(weight: Tensor) -> Tensor:
    """Return D: the CUDA implementation of the op ``gloro_fast::head_differences``."""
    _check(weight)
    weight = weight.contiguous()
    rows, columns = weight.shape
    differences = weight.new_empty(rows, rows, dtype=torch.float32)
    if rows:
        _distances_of(rows, columns, weight.dtype, place_of(weight))(weight, differences)
    return differences


def head_differences_backward(grad: Tensor, weight: Tensor, differences: Tensor) -> Tensor:
    """Return the gradient of the rows: the CUDA implementation of ``gloro_fast::head_differences_backward``."""
    _check(weight)
    square = (weight.shape[0],) * 2
    for tensor in (grad, differences):
        if tensor.shape != square or tensor.dtype != torch.float32 or tensor.device != weight.device:
            raise RuntimeError(
                f"head_differences_backward: expected {square} of float32 on {weight.device}, got {tensor.dtype}"
                f" {tuple(tensor.shape)} on {tensor.device}"
            )
    weight = weight.contiguous()
    grad_weight = torch.empty_like(weight)
    if weight.numel():
        launch = _gradient_of(*weight.shape, weight.dtype, place_of(weight))
        launch(grad.contiguous(), weight, differences.contiguous(), grad_weight)
    return grad_weight


@planned
def _distances_of(rows: int, columns: int, dtype: torch.dtype) -> Launch:
    """Launch on the weight and D."""
    tiles = PairTiles.of(rows)
    return Launch(
        pair_distances, (tiles.count, tiles.count), (rows, columns),
        ROWS=tiles.rows, COLUMNS=tiles.columns, num_warps=tiles.warps,
    )  # fmt: skip


@planned
def _gradient_of(rows: int, columns: int, dtype: torch.dtype) -> Launch:
    """Launch on the gradient of D, the weight, D and the gradient of the weight."""
    grid = triton.cdiv(rows, _ROWS), triton.cdiv(columns, _COLUMNS)
    return Launch(rows_gradient, grid, (rows, columns), ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=_WARPS)


def _check(weight: Tensor) -> None:
    if weight.dim() != 2 or weight.dtype not in DTYPES:
        raise RuntimeError(
            f"head_differences: weight must be (classes, features) of float32, bfloat16 or float16, got {weight.dtype}"
            f" {tuple(weight.shape)}"
        )
