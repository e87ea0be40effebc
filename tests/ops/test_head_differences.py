"""Distances between rows, compiled, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gloro_fast.native import extension
from gloro_fast.ops import head_differences, head_differences_reference

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
SHAPES = [(2, 1), (3, 7), (10, 16), (17, 33), (40, 512), (201, 5), (1, 4), (0, 3), (4, 0)]


def gradient(function: Callable[[Tensor], Tensor], weight: Tensor, grad: Tensor) -> Tensor:
    leaf = weight.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, grad.to(weight.dtype))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_float64_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape).to(dtype)
    if shape[0] > 2:
        weight[1] = weight[0]
    result = head_differences(weight)
    exact = head_differences_reference(weight.double())
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    assert result.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=0)
    assert torch.equal(result, result.t())
    assert not result.diagonal().any()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_against_the_float64_reference(shape: tuple[int, int], sparse: bool) -> None:
    weight = torch.randn(shape)
    if shape[0] > 2:
        weight[1] = weight[0]
    grad = torch.randn(shape[0], shape[0]) * (torch.rand(shape[0], shape[0]) < (0.1 if sparse else 1.0))
    exact = gradient(head_differences_reference, weight.double(), grad)
    # What the 2 n terms of a sum come to without their signs. They may be added up in any order; D itself may be off by
    # 1e-6, 17 roundings, and the sum of g_ij and g_ji, the difference, the quotient and the product are rounded too.
    distance = head_differences_reference(weight.double()).clamp(1e-9)[..., None]
    apart = (weight[:, None] - weight).double().abs() / distance
    size = ((grad.abs() + grad.abs().t())[..., None] * apart).sum(1)
    off = (gradient(head_differences, weight, grad).double() - exact).abs()
    assert (off <= (2 * len(weight) + 24) * 2**-24 * size).all()


def test_rows_of_any_strides() -> None:
    weight = torch.randn(7, 9).t()
    assert torch.equal(head_differences(weight), head_differences(weight.contiguous()))
    grad = torch.randn(9, 9)
    assert torch.equal(gradient(head_differences, weight, grad), gradient(head_differences, weight.contiguous(), grad))


def test_gradcheck() -> None:
    weight = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(head_differences, weight)
    # Away from the diagonal, where the distance has no second derivative.
    assert gradgradcheck(lambda w: head_differences(w).triu(1), weight)


@pytest.mark.parametrize("shape", [(10, 300), (201, 64)])
def test_same_bits_at_every_number_of_threads(shape: tuple[int, int]) -> None:
    weight, grad = torch.randn(shape), torch.randn(shape[0], shape[0])
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append((head_differences(weight), gradient(head_differences, weight, grad)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_opcheck() -> None:
    weight = torch.randn(4, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.gloro_fast.head_differences, (weight,))
    arguments = (torch.randn(4, 4), weight.detach(), head_differences(weight.detach()))
    torch.library.opcheck(torch.ops.gloro_fast.head_differences_backward, arguments)
