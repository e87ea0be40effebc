"""The losses on the margin on the GPU: what ``gloro_fast.ops.margin_loss`` defines, as a Triton kernel.

Loss, derivatives and margin come from one pass over the logits, in float32, arranged so that no digits go where terms
cancel. Rows with NaN or infinities go through the same arithmetic, which carries them on.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .float32_math import INFINITY, exp, is_finite, log1p
from .launching import Launch, place_of, planned
from .margin_gradients import gradients
from .margin_rows import checked, margin_of_program, rows_of_program, store_rows
from .margin_tiles import RowTiles

_CROSS_ENTROPY = tl.constexpr(0)  # places in gloro_fast.ops.margin_loss_op.CRITERIA
_TRADES_CE = tl.constexpr(2)


@triton.jit
def loss_rows(
    logits, differences, lipschitz, epsilon, labels, lam,
    loss, prediction, certified, share_of_logits, share_of_bottom, runner_up, rows, vectors,
    CRITERION: tl.constexpr,
    VECTOR: tl.constexpr, STAGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """The margin, a criterion and its derivatives for a tile of rows; formulas in csrc/cpu/margin_loss.h."""
    classes, first_row, row, live, column = rows_of_program(tl.program_id(0), rows, vectors, VECTOR, ROWS, COLUMNS)
    inside = column < classes
    # As many as there are threads, not all of them loaded: of fewer, several warps would ask for each.
    place = tl.arange(0, 2 * ROWS)
    table = tl.load(labels + first_row + place, place < tl.minimum(rows - first_row, ROWS), 0)
    # Where they are loaded anyway: looking by itself takes four launches.
    tl.device_assert((table >= 0) & (table < classes), "labels must lie in [0, m); bottom is never a label")
    label = tl.gather(table, tl.arange(0, ROWS), 0)[:, None]
    radius_wanted = tl.load(epsilon).to(tl.float32)
    weight_of_robust = tl.load(lam).to(tl.float32)
    values, top, j, bottom, radius, i = margin_of_program(
        logits, differences, lipschitz, radius_wanted, rows, classes, first_row, live, column,
        STAGED, ROWS, COLUMNS, FLAT,
    )  # fmt: skip

    # Everything is taken relative to the largest term, whose weight 1 is left out of the sum: log1p keeps its digits.
    top_or_zero = tl.where(tl.abs(top) == INFINITY, 0.0, top)
    reference = top_or_zero
    bottom_leads = top != top  # TRADES sums over the classes alone: in no row but those that are NaN anyway
    if CRITERION == _CROSS_ENTROPY:
        bottom_leads = (bottom > top) & is_finite(bottom)
        reference = tl.where(bottom_leads, bottom, top_or_zero)
    weight = tl.where(inside, exp(values - reference[:, None]), 0.0)
    is_top = (column == j[:, None]) & (bottom_leads == 0)[:, None]
    weight_of_top = tl.sum(tl.where(is_top, weight, 0.0), 1)
    others = tl.sum(tl.where(is_top, 0.0, weight), 1)
    others += tl.where(bottom_leads | is_finite(top), 0.0, weight_of_top - 1.0)
    is_label = column == label
    true_logit = tl.sum(tl.where(is_label, values, 0.0), 1) - reference
    weight_of_label = tl.sum(tl.where(is_label, weight, 0.0), 1)
    not_label = tl.sum(tl.where(is_label, 0.0, weight), 1)
    label_runs_up = tl.sum(tl.where(is_label & (column == i[:, None]), 1.0, 0.0), 1)

    if CRITERION == _CROSS_ENTROPY:
        at_bottom = exp(bottom - reference)
        others += tl.where(bottom_leads, 0.0, at_bottom)
        total = 1.0 + others
        value = log1p(others) - true_logit
        grad_bottom = at_bottom / total
        # Softmax less one at the label, as minus the weights of all others, bottom's too unless it is the label's own.
        at_label = -(not_label + tl.where(label_runs_up > 0, 0.0, at_bottom)) / total
        gradient = weight / total[:, None]
    else:
        total = 1.0 + others
        lse = log1p(others)  # above the reference
        gap = bottom - reference - lse
        decay = exp(-tl.abs(gap))
        softplus = tl.where(gap > 20.0, gap, tl.maximum(gap, 0.0) + log1p(decay))
        slope = tl.where(gap > 20.0, 1.0, tl.where(gap > 0, 1.0, decay) / (1.0 + decay))
        slope = tl.where(gap != gap, gap, slope)
        softplus = tl.where(gap != gap, gap, softplus)
        grad_bottom = weight_of_robust * slope
        remaining = 1.0 - grad_bottom
        value = lse - true_logit + weight_of_robust * softplus
        at_label = -(not_label / total) * tl.where(label_runs_up > 0, remaining, 1.0)
        at_label -= tl.where(label_runs_up > 0, 0.0, grad_bottom * weight_of_label / total)
        gradient = weight * (remaining / total)[:, None]
        if CRITERION == _TRADES_CE:
            centered = values - reference[:, None]
            mean = tl.sum(tl.where(inside, weight * centered, 0.0), 1) / total
            value += weight_of_robust * (lse - mean)
            pull = weight * ((weight_of_robust / total)[:, None] * (centered - mean[:, None]))
            gradient -= pull
            at_label -= tl.sum(tl.where(is_label, pull, 0.0), 1)
    at_label = tl.where(total == INFINITY, weight_of_label / total - 1.0, at_label)
    gradient += tl.where((column == i[:, None]) & (is_label == 0), grad_bottom[:, None], 0.0)
    gradient = tl.where(is_label, at_label[:, None], gradient)

    store_rows(share_of_logits, gradient, first_row, rows, classes, STAGED, ROWS, COLUMNS, FLAT)
    tl.store(loss + row, value, live)
    tl.store(prediction + row, j.to(tl.int64), live)
    tl.store(certified + row, radius > radius_wanted, live)
    tl.store(share_of_bottom + row, grad_bottom, live)
    tl.store(runner_up + row, i.to(tl.int64), live)


def margin_loss(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: Tensor,
    labels: Tensor,
    criterion: int,
    lam: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return loss, prediction, certified and the shares: the CUDA implementation of ``gloro_fast::margin_loss``."""
    logits, differences = checked(logits, differences, lipschitz, epsilon=epsilon, lam=lam)
    count = logits.shape[0]
    if labels.shape != (count,) or labels.dtype != torch.int64 or labels.device != logits.device:
        raise RuntimeError("margin_loss: labels must be int64, one a row, beside the logits")
    loss, share_of_bottom = (differences.new_empty(count) for _ in range(2))
    prediction, runner_up = (differences.new_empty(count, dtype=torch.int64) for _ in range(2))
    certified = differences.new_empty(count, dtype=torch.bool)
    share_of_logits = differences.new_empty(logits.shape)
    if count:
        _losses_of(logits.shape, logits.dtype, criterion, place_of(logits))(
            logits, differences, lipschitz, epsilon, labels.contiguous(), lam,
            loss, prediction, certified, share_of_logits, share_of_bottom, runner_up,
        )  # fmt: skip
    return loss, prediction, certified, share_of_logits, share_of_bottom, runner_up


@planned
def _losses_of(shape: torch.Size, dtype: torch.dtype, criterion: int) -> Launch:
    """Launch on what ``margin_loss`` is given and gives, for logits of this shape and type."""
    tiles = RowTiles.of(*shape)
    return Launch(
        loss_rows, (tiles.programs,), (tiles.count, tiles.vectors), CRITERION=criterion, **tiles.constants,
        num_warps=tiles.warps, enable_fp_fusion=False, debug=True, sanitize_overflow=False,
    )  # fmt: skip


def margin_loss_backward(
    grad_loss: Tensor, logits: Tensor, share_of_logits: Tensor, share_of_bottom: Tensor, *saved: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of logits, D and K: the CUDA implementation of ``gloro_fast::margin_loss_backward``."""
    return gradients(grad_loss, logits, (share_of_logits, share_of_bottom), *saved)
