"""Directed rounding of the few scalar steps that join the bounds of layers into a certificate."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

SMALLEST = sys.float_info.min
"""The least non-zero bound: a smaller number may be taken for 0 where the processor flushes subnormals."""


def product_up(factors: Iterable[float]) -> float:
    """Give a float >= the real product of ``factors`` >= 0, whatever over- or underflows on the way.

    A factor of exactly 0 makes the product exactly 0, but for one that is infinite or NaN beside it: that layer
    is not known at all, and inf certifies nothing.
    """
    values = list(factors)
    if not all(math.isfinite(value) and value >= 0 for value in values):
        return math.inf
    if 0.0 in values:
        return 0.0
    total = 1.0
    for value in values:
        # Each float64 product is within one rounding of the real one: the next float up is above it. A factor of 1
        # is exact. What underflows is raised to a normal number at once, before it could be taken for 0.
        product = total * value if 1.0 in (total, value) else math.nextafter(total * value, math.inf)
        total = max(product, SMALLEST)
    return total


def up(x: Tensor) -> Tensor:
    """Give the next float64 above each rounded result in ``x``: >= the real value it was rounded from."""
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def positive_up(x: Tensor) -> Tensor:
    """Give ``up(x)`` for results whose real values are > 0: never 0, nor subnormal, where they underflowed."""
    return up(x).clamp_min(SMALLEST)


def down(x: Tensor) -> Tensor:
    """Give the next float64 below each rounded result in ``x``: <= the real value it was rounded from."""
    return torch.nextafter(x, torch.full_like(x, -torch.inf))
