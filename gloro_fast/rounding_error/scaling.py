"""BatchNorm in evaluation and its like: one affine function an element, computed in any of the ways there are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.rounding_error.arithmetic import Arithmetic, Growing, norms, times
from gloro_fast.rounding_error.state import FLOAT64, Applied, Off, State, fixed, safe

_ROUNDINGS = 16
_FLUSHES = 64


@dataclass(frozen=True)
class Scaling:
    """(x - m) g / d + b for each element, with a shift m, a gain g, a divisor d > 0 and a bias b of its own.

    PyTorch computes BatchNorm as x a + (b - m a) with a = g / d on the CPU, and as (x - m) g / d + b, the factors in
    some order, on a GPU; d = sqrt(variance + eps), with eps rounded to the program's type. With s = |g| / d, in each of
    them x, m and b reach the output Y by products and quotients that round at most 16 times, 4 of them where 1 / d
    comes from an approximate instruction:

        |Y - (x - m) g / d - b| <= gamma_16 (s (|x| + |m|) + |b|) + underflow.

    The right side is that of ``value``, element by element, and max s times how far x is from it. Where m / d is large,
    it is large: then the sums cancel.

    Underflow: with f = max(1, 1 / d, |g|, s), at most 24 operands or results, each multiplied by at most f afterwards,
    or by f (|x| + |m|) if it is a factor, are taken for 0 where they are below tiny: 64 tiny (f (|x| + |m|) + f) is
    added, which covers the factor 1 + gamma and its own rounding. d^2 is a sum of which a term may be taken for 0: less
    than one rounding where d^2 u >= 4 tiny; else nothing is certified. All that is computed on the way is at most
    f (|x| + |m|) + |b|.

    The same bounds with u of float64 and x = ``value`` hold for the evaluation in float64.

    Attributes:
        shift, square, gain, bias: m, d^2, g and b in float64, each of the shape of the input without the batch, with 1
            where one number is for all.
        constant: >= max s.
        arithmetic: the program's.
    """

    shift: Tensor
    square: Tensor
    gain: Tensor
    bias: Tensor
    constant: float
    arithmetic: Arithmetic
    stacked = False

    @property
    def factors(self) -> tuple[float, ...]:
        """Return max s."""
        return (self.constant,)

    def __call__(self, *states: State) -> Applied:
        """Apply the layer."""
        (state,) = states
        x, inverse = state.value, self.square.rsqrt()
        scale = self.gain * inverse
        value = (x - self.shift) * scale + self.bias
        scale, gain, bias = scale.abs(), self.gain.abs(), self.bias.abs()
        # Both NaN and infinity come out as a factor that certifies nothing.
        known = (self.square * self.arithmetic.unit >= 4 * self.arithmetic.tiny) & (
            self.square <= self.arithmetic.largest / 8
        )
        factor = torch.where(known, torch.maximum(torch.maximum(inverse, gain), scale).clamp_min(1.0), torch.inf)
        inputs = x.abs() + self.shift.abs()
        spread = state.spread()
        size = self._around(inputs * scale + bias, scale, spread)
        magnitude = self._around(inputs * factor + bias, factor, spread)
        flushed = _norm(factor.expand(x.shape[1:])[None])
        rounding = self._rounding(size, magnitude, flushed, self.arithmetic)
        here, most = fixed(size.constant), fixed(magnitude.constant)
        error = safe(self._rounding(here, most, flushed, FLOAT64).constant, most)
        return Applied(value, Off(error, rounding), magnitude)

    @staticmethod
    def _around(centre: Tensor, factor: Tensor, spread: Growing) -> Growing:
        """Bound a norm for all inputs within ``spread`` of ``value``, from its elements there and their factors."""
        return (spread * _up(factor.amax())).raised(_norm(centre))

    @staticmethod
    def _rounding(size: Growing, magnitude: Growing, flushed: Tensor, arithmetic: Arithmetic) -> Growing:
        underflow = magnitude.raised(flushed) * (_FLUSHES * arithmetic.tiny)
        return size * arithmetic.gamma(_ROUNDINGS) + underflow


def _norm(x: Tensor) -> Tensor:
    """Bound the norm of what ``x``, computed in a few sums and products of numbers >= 0, stands for."""
    return _up(norms(x))


def _up(x: Tensor) -> Tensor:
    return times(x, 1 + 2.0**-40)
