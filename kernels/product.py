"""The gradient of a product on the GPU: what ``gloro_fast.ops.product`` defines, as a Triton kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import Launch, place_of, planned


@triton.jit(do_not_specialize=["count"])
def product_gradient(grad, values, gradient, count, SIZE: tl.constexpr):
    """Multiply all factors before and all after each, in float64, whose range n float32 factors hardly leave."""
    place = tl.arange(0, SIZE)
    before = tl.load(values + place - 1, (place > 0) & (place < count), 1.0).to(tl.float64)
    after = tl.load(values + place + 1, place + 1 < count, 1.0).to(tl.float64)
    others = tl.cumprod(before, 0) * tl.cumprod(after, 0, reverse=True)
    tl.store(gradient + place, tl.load(grad).to(tl.float64) * others, place < count)


def product_backward(grad: Tensor, values: Tensor) -> Tensor:
    """Return the gradient of the factors: the CUDA implementation of ``gloro_fast::product_backward``."""
    if grad.numel() != 1 or values.dim() != 1 or grad.device != values.device:
        raise RuntimeError(
            f"product_backward: expected one number and (n,) factors beside it, got {tuple(grad.shape)} on"
            f" {grad.device} and {tuple(values.shape)} on {values.device}"
        )
    values = values.contiguous()
    gradient = torch.empty_like(values)
    if values.numel():
        _gradient_of(values.numel(), values.dtype, grad.dtype, place_of(values))(grad, values, gradient)
    return gradient


@planned
def _gradient_of(count: int, dtype: torch.dtype, of_grad: torch.dtype) -> Launch:
    """Launch on the gradient of the product, the factors and their gradient."""
    size = triton.next_power_of_2(count)
    return Launch(product_gradient, (1,), (count,), SIZE=size, num_warps=1 if size <= 64 else 4)
