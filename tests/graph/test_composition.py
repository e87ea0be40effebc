"""The differentiable constant of a graph against the formula written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloro_fast.graph.composition import Composition, Join, Product


def written_out(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    first = a * 0.25
    second = first * c * b
    return (1.0 + (first + 0.5 * second) ** 2).sqrt() * d


def test_branches_and_numbers() -> None:
    """Parts of one branch are not side by side among the constants found."""
    steps = (
        Product(0, (0, 1)),
        Product(1, (2, 4)),
        Join((1, 2), (1.0, 0.5), stacked=False),
        Join((0, 3), (1.0, 1.0), stacked=True),
        Product(4, (3,)),
    )
    found = torch.rand(3, dtype=torch.float64, requires_grad=True)
    scale = torch.rand((), dtype=torch.float64, requires_grad=True)
    constant = Composition((), steps, ()).estimate([1.0, 0.25, scale, 1.0, 1.0], [0, 3, 4], found)
    a, d, b = found.unbind()
    expected = written_out(a, b, scale, d)
    torch.testing.assert_close(constant, expected)
    for actual, wanted in zip(
        torch.autograd.grad(constant, (found, scale)), torch.autograd.grad(expected, (found, scale)), strict=True
    ):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_alone(dtype: torch.dtype) -> None:
    constant = Composition((), (Product(0, (0, 1)),), ()).estimate([0.5, 3.0], [], torch.ones(0, dtype=dtype))
    assert constant.dtype == dtype
    assert constant.item() == 1.5
