"""The backward pass of margin and margin_loss in one launch: the gradients of logits, D and K.

Programs have three roles, the longest first, so that they run side by side: one adds up the gradient of K, one a class
adds up its row of that of D, and one a tile of rows writes the gradient of its logits. Each sum has one program and one
order: the same bits in every run, without atomics.

The program of a class looks at the prediction of every row and works on those that are its own: 1000 of them read the
2 kB of 256 predictions from cache in some microseconds (an estimate), while the 4 MB of the gradient are written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import Launch, place_of, planned
from .margin_rows import load_rows, rows_of_program, store_rows
from .margin_tiles import RowTiles

_PAIRS_OF_A_WARP = 256  # of prediction and runner-up, at once, for the gradient of K
_ELEMENTS_OF_A_WARP = 2048  # rows by classes, at once, for that of D ...
_MOST_ROWS = 256  # ... but no more, for registers


@triton.jit
def _rise(grad, grad_step, share_of_bottom, epsilon, row, live):
    """How much each row's loss rises with K_ij: epsilon times the gradient of its bottom."""
    of_bottom = tl.load(grad + row * grad_step, live, 0)
    if share_of_bottom is not None:
        of_bottom = of_bottom * tl.load(share_of_bottom + row, live, 0)
    return epsilon * of_bottom


@triton.jit
def _sum_of_lipschitz(
    grad, grad_step, share_of_bottom, prediction, runner_up, differences, epsilon, grad_lipschitz, rows, classes,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """The gradient of K, in float64."""
    total = tl.zeros((PAIRS,), tl.float64)
    for first in range(0, rows, PAIRS):
        row = tl.cast(first, tl.int64) + tl.arange(0, PAIRS)
        i = tl.load(runner_up + row, row < rows, -1)
        reaches = i >= 0  # else bottom is not finite and has no gradient
        j = tl.load(prediction + row, reaches, 0)
        distance = tl.load(differences + j * classes + i, reaches, 0)
        rise = _rise(grad, grad_step, share_of_bottom, epsilon, row, reaches)
        total += tl.where(reaches, rise.to(tl.float64) * distance.to(tl.float64), 0.0)
    tl.store(grad_lipschitz, tl.sum(total, 0).to(tl.float32))


@triton.jit
def _sum_of_distances(
    j, grad, grad_step, share_of_bottom, prediction, runner_up, lipschitz, epsilon, grad_differences, rows, classes,
    COLUMNS: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """The gradient of row j of D."""
    column = tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, rows, SUMMED):
        row = tl.cast(first, tl.int64) + tl.arange(0, SUMMED)
        own = tl.load(prediction + row, row < rows, -1) == j
        if tl.max(own.to(tl.int32), 0) > 0:
            i = tl.load(runner_up + row, own, -1)
            value = _rise(grad, grad_step, share_of_bottom, epsilon, row, own) * lipschitz
            total += tl.sum(tl.where(column[None, :] == i[:, None], value[:, None], 0.0), 0)
    tl.store(grad_differences + tl.cast(j, tl.int64) * classes + column, total, column < classes)


@triton.jit
def margin_gradients(
    grad, share_of_logits, share_of_bottom, prediction, runner_up, differences, lipschitz, epsilon,
    grad_logits, grad_differences, grad_lipschitz, grad_step, rows, vectors, summed,
    PAIRS: tl.constexpr, SUMMED: tl.constexpr,
    VECTOR: tl.constexpr, STAGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """One role of the backward pass; without shares that of the margin, whose bottom has the gradient ``grad``."""
    program = tl.program_id(0)
    radius = tl.load(epsilon).to(tl.float32)
    if program == 0:
        _sum_of_lipschitz(
            grad, grad_step, share_of_bottom, prediction, runner_up, differences, radius, grad_lipschitz, rows,
            vectors * VECTOR, PAIRS,
        )  # fmt: skip
    elif program <= summed:
        _sum_of_distances(
            program - 1, grad, grad_step, share_of_bottom, prediction, runner_up, tl.load(lipschitz), radius,
            grad_differences, rows, vectors * VECTOR, COLUMNS, SUMMED,
        )  # fmt: skip
    else:
        classes, first_row, row, live, column = rows_of_program(
            program - 1 - summed, rows, vectors, VECTOR, ROWS, COLUMNS
        )
        value = tl.load(grad + row * grad_step, live, 0)[:, None]
        if share_of_logits is not None:
            value = value * load_rows(share_of_logits, first_row, rows, classes, STAGED, ROWS, COLUMNS, FLAT)
        else:
            value = tl.where(column == tl.load(runner_up + row, live, -1)[:, None], value, 0.0)
        store_rows(grad_logits, value, first_row, rows, classes, STAGED, ROWS, COLUMNS, FLAT)


def gradients(
    grad: Tensor,
    logits: Tensor,
    shares: tuple[Tensor, Tensor] | None,
    prediction: Tensor,
    runner_up: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: Tensor,
    with_differences: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of logits, D and K.

    Args:
        grad: (B,) float32, of each row's loss, or without ``shares`` of its bottom; any stride.
        logits: (B, m), for their type alone.
        shares: what ``margin_loss`` leaves: the derivatives of each row's loss with respect to its logits (B, m) and
            to bottom (B,); None for ``margin``.
        prediction: (B,) int64, of the forward pass.
        runner_up: (B,) int64, of the forward pass; -1 where bottom has no gradient.
        differences: (m, m) float32, as in the forward pass.
        lipschitz: one float32, as in the forward pass.
        epsilon: one float64, as in the forward pass.
        with_differences: whether the gradient of D is wanted; else it has no elements.
    """
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    summed = logits.shape[1] if with_differences else 0
    grad_differences = differences.new_empty(summed, summed)
    grad_lipschitz = torch.empty_like(lipschitz)
    share_of_logits, share_of_bottom = shares or (None, None)
    launch = _gradients_of(logits.shape, logits.dtype, summed, grad.stride(0), shares is None, place_of(grad))
    launch(
        grad, share_of_logits, share_of_bottom, prediction, runner_up, differences.contiguous(), lipschitz, epsilon,
        grad_logits, grad_differences, grad_lipschitz,
    )  # fmt: skip
    return grad_logits, grad_differences, grad_lipschitz


@planned
def _gradients_of(shape: torch.Size, dtype: torch.dtype, summed: int, grad_step: int, of_margin: bool) -> Launch:
    """Launch on what ``gradients`` is given and on the gradients.

    Args:
        shape: of the logits.
        dtype: of the logits.
        summed: rows of the gradient of D.
        grad_step: stride of the gradient that is given.
        of_margin: whether there are no shares.
    """
    tiles = RowTiles.of(*shape)
    return Launch(
        margin_gradients, (1 + summed + tiles.programs,), (grad_step, shape[0], tiles.vectors, summed),
        PAIRS=_PAIRS_OF_A_WARP * tiles.warps,
        SUMMED=min(_MOST_ROWS, _ELEMENTS_OF_A_WARP * tiles.warps // tiles.tile_columns),
        **tiles.constants, num_warps=tiles.warps, enable_fp_fusion=False,
    )  # fmt: skip
