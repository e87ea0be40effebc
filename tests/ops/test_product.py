"""The product of constants against torch.prod: values, gradients, and who may ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast.ops.product import product, product_reference


class Log(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def gradient(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    leaf = values.clone().requires_grad_()
    return torch.autograd.grad(2.5 * function(leaf), leaf)[0]


@pytest.mark.parametrize("count", [0, 1, 2, 6, 40])
def test_the_bits_of_torch_where_no_factor_is_zero(count: int) -> None:
    for _ in range(50):
        values = torch.rand(count) + 0.5
        assert torch.equal(product(values), product_reference(values))
        assert torch.equal(gradient(product, values), gradient(product_reference, values))


@pytest.mark.parametrize("zeros", [1, 2, 3])
def test_where_factors_are_zero(zeros: int) -> None:
    values = torch.rand(6) + 0.5
    values[torch.randperm(6)[:zeros]] = 0.0
    found, expected = gradient(product, values), gradient(product_reference, values)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert found.any() == (zeros == 1)


def test_nothing_in_the_gradient_waits() -> None:
    """Neither where a factor is zero nor, as on other devices, where the values may not be looked at."""
    values = torch.tensor([2.0, 0.0, 3.0], requires_grad=True)
    result = product(values)
    with Log() as log:
        (found,) = torch.autograd.grad(result, values)
    assert found.tolist() == [0.0, 6.0, 0.0]
    assert log.names
    assert {"nonzero", "_local_scalar_dense", "item"}.isdisjoint(log.names)


def test_gradients_of_gradients() -> None:
    values = torch.tensor([0.5, 2.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(product, values)
    assert gradgradcheck(product, values)


def test_transforms() -> None:
    values = torch.rand(3, 4) + 0.5
    assert torch.equal(torch.func.vmap(product)(values), values.prod(dim=1))
    expected = gradient(product_reference, values[0]) / 2.5
    torch.testing.assert_close(torch.func.grad(product)(values[0]), expected)
    leaf = values[0].clone().requires_grad_()
    (batched,) = torch.autograd.grad(product(leaf), leaf, torch.ones(5), is_grads_batched=True)
    torch.testing.assert_close(batched, expected.expand(5, -1))


def test_compiled() -> None:
    values = torch.rand(5) + 0.5
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled, values), gradient(product, values))
