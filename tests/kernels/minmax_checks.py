"""What the GPU kernels of minmax must give, asked of the reference; shared by interpreter and simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gloro_fast.ops.minmax_op import minmax_reference, unpack_mask

Forward = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal values with ties, infinities, both zeros, numbers next to zero and NaN among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    special = torch.tensor([0.0, -0.0, 1.0, 1.0, torch.inf, -torch.inf, torch.nan, 6e-8], dtype=torch.float64)
    which = torch.randint(len(special), shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.4, special[which], x).to(dtype)


def same_bits(actual: Tensor, expected: Tensor) -> None:
    """Zeros of the same sign, NaN where the other has NaN, equal elsewhere."""
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    nan = expected.isnan()
    assert torch.equal(actual.signbit() | nan, expected.signbit() | nan)


def check_forward(forward: Forward, x: Tensor, bias: Tensor | None) -> Tensor:
    """Values and bits of the reference, mask bytes of the compiled CPU op; gives the mask."""
    y, mask = forward(x, bias)
    expected, swap = minmax_reference(x, bias)
    same_bits(y, expected)
    assert y.stride() == x.stride()
    assert torch.equal(unpack_mask(mask, x), swap)
    assert torch.equal(mask, torch.ops.gloro_fast.minmax(x, bias)[1])
    return mask


def check_backward(backward: Backward, grad_y: Tensor, mask: Tensor, with_bias: bool) -> None:
    """The routed gradient to the bit, its sums to one rounding, and grad_y left alone."""
    before = grad_y.clone()
    grad_x, grad_bias = backward(grad_y, mask, with_bias)
    expected, _ = torch.ops.gloro_fast.minmax_backward(grad_y, mask, False)
    same_bits(grad_x, expected)
    assert torch.equal(grad_y, before)
    assert grad_x.data_ptr() != grad_y.data_ptr() or grad_y.numel() == 0
    if not with_bias:
        assert grad_bias.shape == (0,)
        return
    others = [d for d in range(expected.dim()) if d != 1]
    exact, size = expected.double().sum(others), expected.double().abs().sum(others)
    assert grad_bias.dtype == grad_y.dtype
    # One rounding to the type, and float32 sums before it.
    allowed = exact.abs() * torch.finfo(grad_y.dtype).eps / 2 + size * 1e-7
    assert ((grad_bias.double() - exact).abs() <= allowed).all()


def check(module: Any, x: Tensor, with_bias: bool) -> None:
    """Forward, in place and backward of ``module`` for one input."""
    bias = values(x.shape[1:2], x.dtype, seed=1) if with_bias else None
    mask = check_forward(module.minmax, x, bias)
    check_forward(lambda x, bias: _in_place(module, x, bias), x, bias)
    grad_y = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x.dtype)
    grad_y = torch.empty_like(x).copy_(grad_y)
    check_backward(module.minmax_backward, grad_y, mask, with_bias)


def _in_place(module: Any, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    y = x.clone()
    return y, module.minmax_(y, bias)
