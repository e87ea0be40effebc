"""The Triton kernel of the product's gradient, interpreted and as PTX in a simulator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops.product import product_reference

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
GRAD = torch.tensor(0.7)


def check(call: Any, values: Tensor, planted: tuple[str, str, str] | None = None) -> None:
    """The float64 reference, rounded once."""
    found = call("product", "product_backward", GRAD.to(values.dtype), values, planted=planted)
    exact = values.double().requires_grad_()
    (expected,) = torch.autograd.grad(product_reference(exact), exact, GRAD.to(values.dtype).double())
    assert found.dtype == values.dtype
    torch.testing.assert_close(found.double(), expected, rtol=2 * torch.finfo(values.dtype).eps, atol=0)


@pytest.mark.parametrize("zeros", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 6, 33, 100])
def test_against_the_float64_reference(call: Any, count: int, zeros: int) -> None:
    values = torch.rand(count) + 0.5
    values[torch.randperm(count)[:zeros]] = 0.0
    check(call, values)


def test_float64(call: Any) -> None:
    check(call, torch.rand(7, dtype=torch.float64) + 0.5)


def test_a_product_that_float32_does_not_hold(call: Any) -> None:
    """Where it underflows or overflows, the products of all others need not."""
    for values in (torch.tensor([1e-30, 1e-25]), torch.tensor([1e30, 1e25])):
        check(call, values)


def test_no_factor(call: Any) -> None:
    assert call("product", "product_backward", GRAD, torch.ones(0)).shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    kernels = pytest.importorskip("gloro_fast.kernels.product")
    with pytest.raises(RuntimeError, match=r"expected one number and \(n,\) factors beside it, got \(2,\)"):
        kernels.product_backward(torch.ones(2), torch.ones(3))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("values + place - 1, (place > 0)", "values + place, (place >= 0)"),
        ("place + 1 < count, 1.0", "place + 1 < count, 0.0"),
        ("reverse=True", "reverse=False"),
    ],
    ids=["itself", "nothing_after", "from_the_left"],
)
def test_a_planted_bug_is_caught(call: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(call, torch.tensor([0.5, 2.0, 3.0, 0.25, 7.0]), ("product", old, new))
