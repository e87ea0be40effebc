"""Distances between the rows of the last layer, and bounds on them: close rows, equal rows, and the gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.head_difference_bounds_op import head_difference_bounds, head_difference_bounds_reference
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


@check("head_difference_bounds")
def check_head_difference_bounds(device: torch.device) -> Iterator[str | None]:
    """Yield for each matrix whether its bounds are those of the reference, but for the order of sums."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns, dtype in ((10, 512, torch.float32), (45, 70, torch.float64), (200, 33, torch.bfloat16)):
        weight = (torch.randn(rows, columns, generator=generator) + 10.0).to(dtype)
        weight[1] = weight[0]
        weight[2:5] = (1e-170 * torch.randn(3, columns, generator=generator, dtype=torch.float64)).to(dtype)
        weight[6, 0], weight[7, 0] = torch.nan, torch.inf
        expected = head_difference_bounds_reference(weight)
        name = f"bounds, {rows} x {columns}, {str(dtype).removeprefix('torch.')}"
        yield difference(name, head_difference_bounds(weight.to(device)), expected, columns * 2.0**-52)
