"""Bottom, prediction and radius on the GPU: what ``gloro_fast.ops.margin`` defines, as a Triton kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import Launch, place_of, planned
from .margin_gradients import gradients
from .margin_rows import checked, margin_of_program, rows_of_program
from .margin_tiles import RowTiles


@triton.jit
def margin_rows(
    logits, differences, lipschitz, epsilon, bottom, prediction, radius, runner_up, rows, vectors,
    VECTOR: tl.constexpr, STAGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """The margin of a tile of rows."""
    classes, first_row, row, live, column = rows_of_program(tl.program_id(0), rows, vectors, VECTOR, ROWS, COLUMNS)
    _, _, j, low, certified_radius, i = margin_of_program(
        logits, differences, lipschitz, tl.load(epsilon).to(tl.float32), rows, classes, first_row, live, column,
        STAGED, ROWS, COLUMNS, FLAT,
    )  # fmt: skip
    tl.store(bottom + row, low, live)
    tl.store(prediction + row, j.to(tl.int64), live)
    tl.store(radius + row, certified_radius, live)
    tl.store(runner_up + row, i.to(tl.int64), live)


def margin(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return bottom, prediction, radius, runner-up: the CUDA implementation of the op ``gloro_fast::margin``."""
    logits, differences = checked(logits, differences, lipschitz, epsilon=epsilon)
    count = logits.shape[0]
    bottom, radius = (differences.new_empty(count) for _ in range(2))
    prediction, runner_up = (differences.new_empty(count, dtype=torch.int64) for _ in range(2))
    if count:
        launch = _margins_of(logits.shape, logits.dtype, place_of(logits))
        launch(logits, differences, lipschitz, epsilon, bottom, prediction, radius, runner_up)
    return bottom, prediction, radius, runner_up


@planned
def _margins_of(shape: torch.Size, dtype: torch.dtype) -> Launch:
    """Launch on what ``margin`` is given and gives, for logits of this shape and type."""
    tiles = RowTiles.of(*shape)
    return Launch(
        margin_rows, (tiles.programs,), (tiles.count, tiles.vectors), **tiles.constants,
        num_warps=tiles.warps, enable_fp_fusion=False,
    )  # fmt: skip


def margin_backward(grad_bottom: Tensor, logits: Tensor, *saved: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of logits, D and K: the CUDA implementation of the op ``gloro_fast::margin_backward``."""
    return gradients(grad_bottom, logits, None, *saved)
