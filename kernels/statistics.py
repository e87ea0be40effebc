"""Statistics of a step on the GPU: what ``gloro_fast.ops.statistics`` defines, as Triton kernels of one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import Launch, place_of, planned

_BLOCK = 1024


@triton.jit(do_not_specialize=["rows"])  # not compiled anew for the last, smaller batch
def count_images(labels, prediction, certified, counts, rows, BLOCK: tl.constexpr):
    """Count over blocks of the batch; counts: correct, verified."""
    correct = tl.zeros((BLOCK,), tl.int64)
    verified = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        inside = row < rows
        right = inside & (tl.load(labels + row, inside, 0) == tl.load(prediction + row, inside, 0))
        signed = right & (tl.load(certified + row, inside, 0) != 0)
        correct += right.to(tl.int64)
        verified += signed.to(tl.int64)
    tl.store(counts, tl.sum(correct, 0))
    tl.store(counts + 1, tl.sum(verified, 0))


@triton.jit(do_not_specialize=["rows"])
def record_row(table, cursor, loss, correct, verified, lipschitz, rows):
    """Write row ``cursor`` of a table of four columns, if it has one, and move the cursor on."""
    row = tl.load(cursor)
    inside = row < rows
    tl.store(table + 4 * row, tl.load(loss).to(tl.float64), inside)
    tl.store(table + 4 * row + 1, tl.load(correct).to(tl.float64), inside)
    tl.store(table + 4 * row + 2, tl.load(verified).to(tl.float64), inside)
    tl.store(table + 4 * row + 3, tl.load(lipschitz).to(tl.float64), inside)
    tl.debug_barrier()  # what one thread stores, all have loaded
    tl.store(cursor, row + 1)


def count(labels: Tensor, prediction: Tensor, certified: Tensor) -> Tensor:
    """Return (correct, verified): the CUDA implementation of the op ``gloro_fast::count``."""
    types = (labels.dtype, prediction.dtype, certified.dtype)
    alike = labels.shape == prediction.shape == certified.shape
    alike = alike and labels.device == prediction.device == certified.device
    if types != (torch.int64, torch.int64, torch.bool) or not alike:
        raise RuntimeError(
            "count: labels, prediction and certified must be int64, int64 and bool of one shape on one device, got"
            f" {', '.join(f'{t.dtype} {tuple(t.shape)} on {t.device}' for t in (labels, prediction, certified))}"
        )
    counts = prediction.new_empty(2)
    launch = _counts_of(labels.shape[0], place_of(labels))
    launch(labels.contiguous(), prediction.contiguous(), certified.contiguous(), counts)
    return counts


def record_(table: Tensor, cursor: Tensor, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor) -> None:
    """Write a row of the table: the CUDA implementation of the op ``gloro_fast::record_``."""
    if table.dtype != torch.float64 or table.dim() != 2 or table.shape[1] != 4 or not table.is_contiguous():
        raise RuntimeError(
            f"record_: table must be contiguous (steps, 4) of float64, got {table.dtype} {tuple(table.shape)}"
        )
    if cursor.dtype != torch.int64 or cursor.shape != (1,):
        raise RuntimeError(f"record_: cursor must be (1,) of int64, got {cursor.dtype} {tuple(cursor.shape)}")
    numbers = (loss, correct, verified, lipschitz)
    if any(number.numel() != 1 or number.device != table.device for number in (*numbers, cursor)):
        raise RuntimeError(
            "record_: expected four scalars and the cursor beside the table, got"
            f" {', '.join(f'{tuple(n.shape)} on {n.device}' for n in (*numbers, cursor))}"
        )
    launch = _record_of(table.shape[0], tuple(number.dtype for number in numbers), place_of(table))
    launch(table, cursor, *numbers)


@planned
def _counts_of(rows: int) -> Launch:
    """Launch on labels, prediction, certified and the counts."""
    return Launch(count_images, (1,), (rows,), BLOCK=_BLOCK)


@planned
def _record_of(rows: int, dtypes: tuple[torch.dtype, ...]) -> Launch:
    """Launch on the table, its cursor, loss, correct, verified and K."""
    return Launch(record_row, (1,), (rows,), num_warps=1)
