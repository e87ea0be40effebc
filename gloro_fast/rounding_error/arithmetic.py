"""Floating-point arithmetic as every backend keeps it, and bounds that grow with epsilon, rounded up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.rounding import positive_up


@dataclass(frozen=True)
class Arithmetic:
    """The model of one type: fl(a op b) = (a op b)(1 + d) + e with |d| <= unit and |e| <= tiny.

    Beside it an operand below ``tiny`` may be taken for 0, as some processors do.

    Attributes:
        unit: unit roundoff u, 2^-24 for float32.
        tiny: the smallest normal number, so that the model holds with and without subnormal numbers.
        largest: the largest finite number.
    """

    unit: float
    tiny: float
    largest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Arithmetic:
        """Return the arithmetic of float32 or float64.

        Raises:
            ConfigError: another type; with 8 or 11 bits the bound would cover everything.
        """
        if dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"executed certificates need a net in float32 or float64, but it is {dtype}; convert it with .float()"
            )
        info = torch.finfo(dtype)
        return cls(info.eps / 2, info.tiny, info.max)

    def holds(self, x: Tensor) -> bool:
        """Return whether numbers in float64 are numbers of the type."""
        dtype = next(dtype for dtype in (torch.float32, torch.float64) if torch.finfo(dtype).eps / 2 == self.unit)
        return bool((x.to(dtype).double() == x).all())

    def gamma(self, operations: int) -> float:
        """Return gamma_n = n u / (1 - n u), rounded up: n roundings multiply by at most 1 + gamma_n.

        inf from n u >= 1/2 on, so that gamma_n <= 1 wherever it is used.
        """
        product = operations * self.unit
        # The product is exact, u being a power of two; difference, quotient and factor round three times.
        return product / (1 - product) * (1 + 2.0**-50) if product < 0.5 else math.inf


@dataclass(frozen=True)
class Growing:
    """An upper bound ``constant + slope * epsilon``, for every epsilon >= 0.

    Attributes:
        constant: float64 >= 0, one for each of B images, or (B, m) for each of their logits.
        slope: float64 >= 0, the same for all images, since it depends on the weights alone; () or (m,).
    """

    constant: Tensor
    slope: Tensor

    def __add__(self, other: Growing) -> Growing:
        return Growing(plus(self.constant, other.constant), plus(self.slope, other.slope))

    def __mul__(self, factor: Tensor | float) -> Growing:
        return Growing(times(self.constant, factor), times(self.slope, factor))

    def raised(self, amount: Tensor | float) -> Growing:
        """Add to the constant."""
        return Growing(plus(self.constant, amount), self.slope)


def plus(x: Tensor, y: Tensor | float) -> Tensor:
    """Return numbers > 0 that are >= the sum of numbers >= 0."""
    return positive_up(x + y)


def times(x: Tensor, factor: Tensor | float) -> Tensor:
    """Return numbers > 0 that are >= the product of numbers >= 0."""
    return positive_up(x * factor)


def root_of_sum(parts: Sequence[Tensor]) -> Tensor:
    """Return numbers > 0 that are >= the root of the sum of squares of ``parts`` >= 0, element by element."""
    total = times(parts[0], parts[0])
    for part in parts[1:]:
        total = plus(total, times(part, part))
    return positive_up(total.sqrt())


def root_of_squares(parts: Sequence[Growing]) -> Growing:
    """Bound the root of the sum of squares.

    The norm of the vector of all (constant + slope * epsilon) is at most that of its constants, and epsilon times that
    of its slopes.
    """
    return Growing(root_of_sum([part.constant for part in parts]), root_of_sum([part.slope for part in parts]))


def norms(x: Tensor) -> Tensor:
    """Return numbers >= the l2 norms of the rows of ``x`` (B, ...) float64, n numbers each: (B,).

    A sum of n squares in any order is within (1 + u)^(n + 1) of the real one; 1 + 2 (n + 4) u covers its root and
    the factor itself. A square underflows below |x| = 2^-511 only: sqrt(n) 2^-500 is added.
    """
    rows = x.flatten(1)
    count = rows.shape[1]
    return plus(rows.square().sum(dim=1).sqrt() * (1 + 2 * (count + 4) * 2.0**-53), math.sqrt(count) * 2.0**-500)
