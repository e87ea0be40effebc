"""Directed rounding: the steps that make bounds of layers, and that join them into a certificate."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

UNIT_ROUNDOFF = 2.0**-53
"""u of float64: a rounded result is within a factor 1 + u of the real one, unless it over- or underflows."""

SMALLEST = sys.float_info.min
"""The least non-zero bound: a smaller number may be taken for 0 where the processor flushes subnormals."""


def product_up(factors: Iterable[float]) -> float:
    """Return a float >= the real product of ``factors`` >= 0, whatever over- or underflows on the way.

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


def gamma(count: int) -> float:
    """Return a float >= gamma_n = n u / (1 - n u), for n = ``count``.

    A sum of n products, in any order, with or without fused multiply-adds, is within gamma_n times the sum of their
    absolute values of the real one (Higham, Accuracy and Stability of Numerical Algorithms, Section 3.1).
    """
    product = count * UNIT_ROUNDOFF
    return math.nextafter(math.nextafter(product / (1 - product), math.inf), math.inf) if product < 0.5 else math.inf


def add_up(*terms: float) -> float:
    """Return a float >= the real sum of ``terms`` >= 0; NaN becomes inf."""
    total = 0.0
    for term in terms:
        # A term of 0 leaves the sum as it is.
        total = math.nextafter(total + term, math.inf) if 0.0 not in (total, term) else total + term
    return math.inf if math.isnan(total) else total


def sqrt_up(x: float) -> float:
    """Return a float >= the real root of ``x`` >= 0; NaN becomes inf."""
    # sqrt is rounded correctly.
    return math.inf if math.isnan(x) else math.nextafter(math.sqrt(x), math.inf)


def root_sum_squares_up(*terms: float) -> float:
    """Return a float >= the real root of the sum of squares of ``terms`` >= 0; inf where one is infinite or NaN.

    They are scaled by a power of two first, which is exact, so that nothing overflows; what underflows is raised to
    normal numbers.
    """
    values = [value for value in terms if value != 0.0]
    if not all(math.isfinite(value) and value > 0 for value in values):
        return math.inf
    if len(values) < 2:
        return values[0] if values else 0.0
    exponent = math.frexp(max(values))[1]
    scaled = [max(math.ldexp(value, -exponent), SMALLEST) for value in values]
    root = sqrt_up(add_up(*(product_up([value, value]) for value in scaled)))
    try:
        return max(math.nextafter(math.ldexp(root, exponent), math.inf), SMALLEST)
    except OverflowError:
        return math.inf


def norm_up(x: Tensor, dims: int) -> Tensor:
    """Return floats >= the l2 norms over the last ``dims`` dimensions of ``x``, whose entries are far from overflow.

    A sum of n squares is within a factor (1 + u)^(n + 1) of the real one, in any order, and its root within
    (1 + u)^(n / 2 + 2). It is enlarged by 1 + (n + 8) u, which is more for n < 2^40. Squares that underflow take less
    than n 2^-1022 from the sum, which the enlargement covers where the largest entry is at least 2^-400 or all are 0.
    """
    last = tuple(range(-dims, 0))
    count = math.prod(x.shape[-dims:])
    norm: Tensor = torch.linalg.vector_norm(x, dim=last)
    return norm * (1 + (count + 8) * UNIT_ROUNDOFF)


def up(x: Tensor) -> Tensor:
    """Return the next float64 above each rounded result in ``x``: >= the real value it was rounded from."""
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def positive_up(x: Tensor) -> Tensor:
    """Return ``up(x)`` for results whose real values are > 0: never 0, nor subnormal, where they underflowed."""
    return up(x).clamp_min(SMALLEST)


def down(x: Tensor) -> Tensor:
    """Return the next float64 below each rounded result in ``x``: <= the real value it was rounded from."""
    return torch.nextafter(x, torch.full_like(x, -torch.inf))
