"""Margin and TRADES with their gradients, beside the same in plain PyTorch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks import eager
from benchmarks.gpu.rows import Rows, run
from benchmarks.networks import LAMBDA
from gloro_fast.losses import TradesLoss

EPSILON = 0.3
CASES = ((512, 10), (256, 200), (256, 1000))


def measure(rows: Rows) -> None:
    """Time margin and loss both ways for few classes and many."""
    for batch, classes in CASES:
        _compare(rows, batch, classes)


def _compare(rows: Rows, batch: int, classes: int) -> None:
    labels = torch.randint(classes, (batch,), device=rows.device)
    head = torch.randn(classes, 256, device=rows.device)
    logits = torch.randn(batch, classes, device=rows.device)
    distances = torch.cdist(head, head, compute_mode="donot_use_mm_for_euclid_dist")
    leaves = [each.requires_grad_() for each in (logits, distances, torch.tensor(2.0, device=rows.device))]
    ours = rows.row(f"margin and TRADES, {batch} x {classes}", lambda: partial(_ours, leaves, labels))
    theirs = rows.row("    eager", lambda: partial(_eager, leaves, labels))
    rows.ratio("ours / eager", ours, theirs)


def _ours(leaves: list[Tensor], labels: Tensor) -> None:
    logits, distances, lipschitz = leaves
    loss = TradesLoss(LAMBDA).with_margin(logits, distances, lipschitz, EPSILON, labels)[0].mean()
    torch.autograd.grad(loss, leaves)


def _eager(leaves: list[Tensor], labels: Tensor) -> None:
    logits, distances, lipschitz = leaves
    bottom = eager.bottom_from_differences(logits, distances, lipschitz, EPSILON)
    torch.autograd.grad(eager.trades(logits, bottom, labels, LAMBDA), leaves)


if __name__ == "__main__":
    run(measure)
