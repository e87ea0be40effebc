"""What is known behind a node, for a batch.

Notation: h(x) is what the nodes so far give in real arithmetic, H(x) what the executed program gives; x' is any input
of the program's type with ||x' - x|| <= epsilon. All norms are l2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gloro_fast.rounding_error.arithmetic import Arithmetic, Growing, norms, plus, root_of_squares, root_of_sum, times

FLOAT64 = Arithmetic.of(torch.float64)


@dataclass(frozen=True)
class Off:
    """How far the two ways of computing h may be off.

    Attributes:
        error: (B,), >= ||value - h(x)|| for the evaluation in float64; inf where that may have overflowed.
        deviation: >= ||H(x') - h(x')||.
    """

    error: Tensor
    deviation: Growing

    @classmethod
    def none(cls, like: Tensor) -> Off:
        """Return that of what nobody computed; ``like`` is (B,) float64."""
        zeros = torch.zeros_like(like)
        return cls(zeros, Growing(zeros, zeros.new_zeros(())))

    def __add__(self, other: Off) -> Off:
        return Off(plus(self.error, other.error), self.deviation + other.deviation)

    def __mul__(self, factor: float) -> Off:
        return Off(times(self.error, factor), self.deviation * factor)

    @classmethod
    def beside(cls, parts: Sequence[Off]) -> Off:
        """Return that of values that lie side by side."""
        error = root_of_sum([part.error for part in parts])
        return cls(error, root_of_squares([part.deviation for part in parts]))


@dataclass(frozen=True)
class State:
    """What is known behind a node, for a batch of B images x.

    Attributes:
        value: (B, ...) float64, h(x) evaluated in float64; a tuple of them behind an operation that gives several.
        off: how far that and the program may be off.
        lipschitz: a Lipschitz constant of h.
        limit: (B,), epsilon up to which no sum overflows in the program.
    """

    value: Tensor
    off: Off
    lipschitz: float
    limit: Tensor

    @classmethod
    def of_images(cls, x: Tensor) -> State:
        """Begin with images (B, ...), which are what they are: no deviation."""
        value = x.detach().double()
        off = Off.none(torch.empty(len(x), dtype=torch.float64, device=x.device))
        return cls(value, off, 1.0, torch.full_like(off.error, math.inf))

    @property
    def error(self) -> Tensor:
        """Bound ||value - h(x)||."""
        return self.off.error

    @property
    def deviation(self) -> Growing:
        """Bound ||H(x') - h(x')||."""
        return self.off.deviation

    def spread(self) -> Growing:
        """Bound ||H(x') - value|| <= error + lipschitz * epsilon + deviation."""
        return Growing(self.error, self.error.new_tensor(self.lipschitz)) + self.deviation

    def sizes(self) -> tuple[Growing, Growing]:
        """Bound ||value|| and ||H(x')||."""
        seen = norms(self.value)
        return fixed(seen), self.spread().raised(seen)


@dataclass(frozen=True)
class Applied:
    """What a step does to a batch.

    Attributes:
        value: its output in float64.
        rounding: how far its output is off where its inputs are exact.
        magnitude: >= everything that the program computes on the way; None where it computes nothing.
    """

    value: Tensor
    rounding: Off
    magnitude: Growing | None


class Step(Protocol):
    """What executes a node in float64, and bounds how it rounds."""

    @property
    def factors(self) -> tuple[float, ...]:
        """Its Lipschitz constant with regard to each input."""

    @property
    def stacked(self) -> bool:
        """Whether what the inputs are off lies side by side in the output, or else adds up."""

    def __call__(self, *states: State) -> Applied:
        """Apply it."""


def fixed(size: Tensor) -> Growing:
    """Bound what does not grow with the ball."""
    return Growing(size, size.new_zeros(()))


def within(limit: Tensor, magnitude: Growing, arithmetic: Arithmetic) -> Tensor:
    """Return ``limit`` with the epsilon up to which ``magnitude`` is at most an eighth of the largest number."""
    room = arithmetic.largest / 8 - magnitude.constant
    # 1 - 2^-40 covers the rounding of difference and quotient.
    return torch.minimum(limit, (room / magnitude.slope * (1 - 2.0**-40)).clamp_min(0.0))


def safe(error: Tensor, magnitude: Growing) -> Tensor:
    """Return ``error`` where the evaluation in float64 does not overflow, else inf."""
    return torch.where(magnitude.constant <= FLOAT64.largest / 8, error, math.inf)
