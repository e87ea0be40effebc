"""The product of constants: its gradient, also where factors are zero."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.product import product, product_reference


@check("product")
def check_product(device: torch.device) -> Iterator[str | None]:
    """Yield for each number of factors and of zeros among them whether product and gradient are right."""
    generator = torch.Generator().manual_seed(0)
    for factors, zeros in ((1, 0), (6, 0), (6, 1), (50, 2)):
        values = torch.rand(factors, generator=generator) + 0.5
        values[:zeros] = 0.0
        exact, placed = values.double().requires_grad_(), values.to(device).requires_grad_()
        found, expected = product(placed), product_reference(exact)
        name = f"{factors} factors, {zeros} of them zero"
        yield difference(f"product, {name}", found, expected.detach(), relative=1e-5)
        (actual,) = torch.autograd.grad(found, placed)
        yield difference(f"gradient, {name}", actual, torch.autograd.grad(expected, exact)[0], relative=1e-5)
