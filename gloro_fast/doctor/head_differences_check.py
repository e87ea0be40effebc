"""Distances between the rows of the last layer: close rows, equal rows, and the gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.head_differences_op import head_differences, head_differences_reference

_CASES = (
    *((shape, torch.float32) for shape in ((2, 1), (10, 64), (30, 33), (200, 512))),
    ((10, 64), torch.bfloat16),
)


@check("head_differences")
def check_head_differences(device: torch.device) -> Iterator[str | None]:
    """Yield for each matrix whether distances, and then whether gradients, are right."""
    generator = torch.Generator().manual_seed(0)
    for (rows, columns), dtype in _CASES:
        weight = (torch.randn(rows, columns, generator=generator) + 10.0).to(dtype)
        weight[1] = weight[0]  # at distance 0, where the gradient is 0
        grad = torch.randn(rows, rows, generator=generator)
        exact = weight.double().requires_grad_()
        expected = head_differences_reference(exact)
        placed = weight.to(device).requires_grad_()
        distances = head_differences(placed)
        name = f"{rows} x {columns}, {str(dtype).removeprefix('torch.')}"
        yield difference(f"distances, {name}", distances, expected.detach(), relative=1e-5)
        (found,) = torch.autograd.grad(distances, placed, grad.to(device))
        (wanted,) = torch.autograd.grad(expected, exact, grad.double())
        allowed = 1e-5 * float(grad.abs().sum(1).max())
        yield difference(f"gradient, {name}", found, wanted, torch.finfo(dtype).eps, allowed)
