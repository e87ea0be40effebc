"""Every instruction set gives the same bits, and each is held against the reference by test_minmax."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.ops.minmax_op import minmax, minmax_reference, unpack_mask

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")

# More than a block, a tile and a chunk of everything, channels of every remainder; the last is streamed.
SHAPES = [(7, 6), (300, 100), (3, 34), (5, 12, 7, 7), (2, 62, 14, 15), (1, 2, 33, 70), (3, 16, 1, 1), (80, 64, 28, 30)]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_is(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def same_bits(a: Tensor, b: Tensor) -> bool:
    kind = BITS.get(a.element_size(), a.dtype)
    return torch.equal(a.view(kind), b.view(kind))


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Cap the instruction set; the kernels look at every call."""
    return lambda name: monkeypatch.setenv("GLORO_FAST_SIMD", name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("to_format", [as_is, channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits(
    shape: tuple[int, ...], to_format: Callable[[Tensor], Tensor], dtype: torch.dtype, levels: Callable[[str], None]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    x.view(-1)[::7] = x.view(-1)[3]  # ties
    x.view(-1)[1::97] = torch.nan
    x.view(-1)[2::89] = torch.inf
    x = to_format(x).requires_grad_()
    bias = torch.randn(shape[1], generator=generator).to(dtype).requires_grad_()
    grad_y = to_format(torch.randn(shape, generator=generator).to(dtype))
    results = []
    for level in ("portable", "avx2", "avx512"):
        levels(level)
        y, mask = minmax(x, bias)
        grads = torch.autograd.grad(y, (x, bias), grad_y, retain_graph=True)
        alone = torch.autograd.grad(y, x, grad_y)
        over = minmax_(x.detach().clone(memory_format=torch.preserve_format), bias.detach())
        results.append([t.detach() for t in (y, mask, *grads, *alone, over)])
    expected, swap = minmax_reference(x, bias)
    for result in results:
        torch.testing.assert_close(result[0], expected.detach(), rtol=0, atol=0, equal_nan=True)
        assert torch.equal(unpack_mask(result[1], x), swap)
        assert all(same_bits(a, b) for a, b in zip(result, results[0], strict=True))
        assert same_bits(result[0], result[-1])
