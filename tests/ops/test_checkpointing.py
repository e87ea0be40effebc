"""Activation checkpointing runs the forward pass again within the backward pass: the ops must be recorded there too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gloro_fast import ops
from gloro_fast.ops import Geometry

CLASSES, FEATURES, ROWS = 5, 12, 7
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_of(margin: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Loss:
    """A net of a dense layer, MinMax and a head, and all that its loss needs."""
    start = torch.nn.functional.normalize(torch.ones(FEATURES), dim=0)
    labels = torch.arange(ROWS) % CLASSES

    def loss(x: Tensor, weight: Tensor, head: Tensor) -> Tensor:
        sigma, _, _ = ops.power_iteration([weight], [start], [Geometry((FEATURES,))], 3)
        hidden, _ = ops.minmax(ops.dense(x, weight), None)
        return margin(ops.dense(hidden, head), ops.head_differences(head), sigma.prod(), labels)

    return loss


def fused(criterion: str) -> Loss:
    return loss_of(lambda f, d, k, labels: ops.margin_loss(f, d, k, 0.3, labels, criterion, 1.5)[0].mean())


LOSSES: dict[str, Loss] = {
    "margin": loss_of(lambda f, d, k, labels: (ops.margin(f, d, k, 0.3)[0] - f[:, 0]).mean()),
    **{criterion: fused(criterion) for criterion in ("ce", "trades-kl", "trades-ce")},
}


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_without_checkpointing(name: str, use_reentrant: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS, FEATURES), (8, FEATURES), (CLASSES, 8))
    arguments = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    expected = torch.autograd.grad(LOSSES[name](*arguments), arguments)
    checkpoint(LOSSES[name], *arguments, use_reentrant=use_reentrant).backward()
    for argument, gradient in zip(arguments, expected, strict=True):
        assert argument.grad is not None
        assert torch.equal(argument.grad, gradient)
