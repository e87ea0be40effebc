"""A layer's weight as float64 numbers of moderate size, so that no square of them over- or underflows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gloro_fast.rounding import SMALLEST
from gloro_fast.rules.real import require_floating

SLACK = 2.0**-900
"""More than all that underflow can take from a norm that is computed of a scaled weight: a loss is below 2^-970 an
entry or operation, of fewer than 2^64, each then multiplied by less than 2^6."""

_SIGNLESS = 0x7FFF_FFFF_FFFF_FFFF
_INFINITE = 0x7FF0_0000_0000_0000


# So many numbers are converted at a time where the result is not kept: 32 MB of float64.
_PART = 1 << 22


@dataclass(frozen=True)
class ScaledWeight:
    """A non-zero finite weight divided by a power of two, which is exact but for what ``SLACK`` covers.

    Attributes:
        source: the weight, of any floating dtype.
        exponent: what the power of two is.
    """

    source: Tensor
    exponent: int

    @cached_property
    def weight(self) -> Tensor:
        """All of it: float64, contiguous, its largest absolute value in [1/2, 1), so that its norm is at least 1/2."""
        return self.scaled(self.source)

    def scaled(self, part: Tensor) -> Tensor:
        """Scale a part of ``source``, so that a large one need not be in memory twice."""
        values, exponent = _exact_double(part), self.exponent
        if abs(exponent) < 1000:
            scaled = values * 2.0**-exponent
        else:
            half = -exponent // 2
            scaled = values * 2.0**half * 2.0 ** (-exponent - half)
        # Only those of float64: what is subnormal in a narrower type is not as a float64.
        if part.dtype == torch.float64:
            bits = values.view(torch.int64) & _SIGNLESS
            subnormal = (bits >> 52 == 0) & (bits > 0)
            if bool(subnormal.any()):
                scaled = torch.where(subnormal, _signed(bits, values) * 2.0 ** (-1074 - exponent), scaled)
        return scaled.contiguous()

    def unscale_up(self, bound: float) -> float:
        """Return a normal float >= the real ``bound * 2^exponent``; inf for NaN and beyond the largest float."""
        if not bound < math.inf:
            return math.inf
        try:
            # Exact, or below the smallest normal number.
            return max(math.ldexp(math.nextafter(bound + SLACK, math.inf), self.exponent), SMALLEST)
        except OverflowError:
            return math.inf


def scale(weight: Tensor) -> ScaledWeight | float:
    """Scale ``weight``, of any real floating dtype; give 0.0 for zeros alone, inf if there are NaN or infinities.

    Whether the weight is zero is read from its bits, and subnormal numbers are converted through integers: with
    ``torch.set_flush_denormal(True)`` floating point takes them for 0.

    Raises:
        ArchitectureError: the weight is not real floating point.
    """
    weight = require_floating("the weight", weight).detach()
    parts = torch.split(weight.reshape(-1), _PART)
    largest = max(
        (int((_exact_double(part).view(torch.int64) & _SIGNLESS).max()) for part in parts if len(part)), default=0
    )
    if largest == 0:
        return 0.0
    if largest >= _INFINITE:
        return math.inf
    # A normal number with exponent field E is in [1/2, 1) * 2^(E - 1022), a subnormal one its bits times 2^-1074.
    return ScaledWeight(weight, (largest >> 52) - 1022 if largest >> 52 else largest.bit_length() - 1074)


def _exact_double(weight: Tensor) -> Tensor:
    """Convert to float64 without loss, float32 subnormals included."""
    if weight.dtype == torch.float64:
        return weight
    narrow = weight.float()
    bits = narrow.view(torch.int32) & 0x7FFF_FFFF
    subnormal = (bits >> 23 == 0) & (bits > 0)
    values = narrow.double()
    return torch.where(subnormal, _signed(bits, narrow) * 2.0**-149, values) if bool(subnormal.any()) else values


def _signed(magnitude: Tensor, like: Tensor) -> Tensor:
    """Return the integers ``magnitude`` as float64 with the signs of ``like``."""
    return torch.where(like.signbit(), -magnitude.double(), magnitude.double())
