"""MinMax: both memory formats and dense batches, odd sizes, ties and NaN, every type, in place, and the gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.ops.minmax_op import minmax, minmax_reference

_ODD = (3, 6, 5, 7)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# All types in one odd shape, the others in one type: Triton compiles anew for each, which is what takes the time.
_CASES = (
    *((_ODD, dtype) for dtype in _DTYPES),
    *((shape, torch.float32) for shape in ((5, 34), (0, 4, 3, 3), (64, 32, 32, 32))),
)


@check("minmax")
def check_minmax(device: torch.device) -> Iterator[str | None]:
    """Yield for each input whether values, and then whether gradients, are right."""
    generator = torch.Generator().manual_seed(0)
    for shape, dtype in _CASES:
        x, grad_y = _values(shape, generator).to(dtype), torch.randn(shape, generator=generator).to(dtype)
        bias = torch.randn(shape[1], generator=generator).to(dtype)
        formats = [torch.contiguous_format, torch.channels_last] if len(shape) == 4 else [torch.contiguous_format]
        for memory_format in formats:
            name = f"{shape} {str(memory_format).removeprefix('torch.')} {str(dtype).removeprefix('torch.')}"
            placed = [t.to(device).contiguous(memory_format=memory_format) for t in (x, grad_y)]
            yield _values_differ(name, x, bias, placed[0], bias.to(device))
            yield _gradients_differ(name, x, grad_y, *placed)


def _values(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    special = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, torch.nan])
    which = torch.randint(len(special), shape, generator=generator)
    chosen = torch.rand(shape, generator=generator) < 0.3
    return torch.where(chosen, special[which], torch.randn(shape, generator=generator))


def _values_differ(name: str, x: Tensor, bias: Tensor, x_placed: Tensor, bias_placed: Tensor) -> str | None:
    # Rounding keeps order, so the sorted sums, rounded once, are what the kernel must give to one unit in the last.
    expected = minmax_reference(x.double(), bias.double())[0]
    rounding = torch.finfo(x.dtype).eps
    y = minmax(x_placed, bias_placed)[0]
    wrong = difference(f"values, {name}", y, expected, rounding)
    if wrong is not None or x.shape != _ODD or x.dtype != torch.float32:
        return wrong
    return difference(f"values in place, {name}", minmax_(x_placed.clone(), bias_placed), y.cpu().double())


def _gradients_differ(name: str, x: Tensor, grad_y: Tensor, x_placed: Tensor, grad_placed: Tensor) -> str | None:
    exact = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(minmax_reference(exact)[0], exact, grad_y.double())
    leaf = x_placed.detach().requires_grad_()
    bias = torch.zeros(x.shape[1], dtype=x.dtype, device=leaf.device, requires_grad=True)
    grad_x, grad_bias = torch.autograd.grad(minmax(leaf, bias)[0], (leaf, bias), grad_placed)

    in_pairs = (x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])
    undefined = x.isnan().reshape(in_pairs).any(2, keepdim=True).expand(in_pairs).reshape(x.shape)
    found = grad_x.cpu().double()
    wrong = difference(f"gradient, {name}", found.masked_fill(undefined, 0), expected.masked_fill(undefined, 0))
    others = [d for d in range(x.dim()) if d != 1]
    allowed = 1e-6 * float(found.abs().sum(others).max())
    rounding = torch.finfo(x.dtype).eps
    return wrong or difference(f"gradient of the bias, {name}", grad_bias, found.sum(others), rounding, allowed)
