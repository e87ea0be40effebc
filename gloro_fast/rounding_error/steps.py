"""What layers that add products, and those that select, do to a batch and to the bounds on its rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gloro_fast.rounding import add_up
from gloro_fast.rounding_error.arithmetic import Arithmetic, Growing
from gloro_fast.rounding_error.state import FLOAT64, Applied, Off, State, safe


@dataclass(frozen=True)
class Sums:
    """A layer whose M outputs are each the sum of at most n products w x and perhaps a bias b, in any order.

    With gamma = gamma_{n+1}, and a = || |W| ||, each output Y_i of the program for its input X satisfies

        |Y_i - (W X + b)_i| <= gamma (|W| |X| + |b|)_i + underflow:

    a product is rounded once and takes part in at most n additions; so does the bias, whether it begins the sum or is
    added last, by this layer or by the MinMax after it; fused multiply-adds round less. Norms give

        ||H_out - h_out|| <= ||W|| ||H - h|| + gamma (a ||H|| + ||b||) + underflow.

    Underflow: at most 3 n + 3 results or operands of an output are taken for 0, each then multiplied by at most
    1 + gamma <= 2: 2 tiny sqrt(M) (3 n + 3) in the norm; weights taken for 0 change W X by at most
    2 tiny sqrt(n M) ||X||, inputs taken for 0 by at most 2 tiny a sqrt(N) for N inputs. Twice that is added, which
    covers its own rounding. Every partial sum is at most (1 + gamma) (a ||X|| + ||b||) and that underflow, so that
    a ||X|| + ||b|| <= largest / 8 excludes overflow.

    The same bounds with u of float64 and X = ``value`` hold for the evaluation in float64.

    Attributes:
        name: the layer's name in the module.
        layer: the layer, its parameters in float64.
        spectral: ||W||, as bounded.
        absolute: a, as bounded.
        terms: n.
        outputs: M.
        inputs: N.
        bias: >= ||b|| over all outputs.
        arithmetic: the program's.
    """

    name: str
    layer: Callable[[Tensor], Tensor]
    spectral: float
    absolute: float
    terms: int
    outputs: int
    inputs: int
    bias: float
    arithmetic: Arithmetic
    stacked = False

    @property
    def factors(self) -> tuple[float, ...]:
        """||W||."""
        return (self.spectral,)

    def __call__(self, *states: State) -> Applied:
        """Apply the layer."""
        (state,) = states
        here, reach = state.sizes()
        error = safe(self._rounding(here, FLOAT64).constant, self._magnitude(here))
        rounding = self._rounding(reach, self.arithmetic)
        return Applied(self.layer(state.value), Off(error, rounding), self._magnitude(reach))

    def _magnitude(self, size: Growing) -> Growing:
        """Return a ||X|| + ||b|| for ||X|| <= ``size``."""
        return (size * self.absolute).raised(self.bias)

    def _rounding(self, size: Growing, arithmetic: Arithmetic) -> Growing:
        relative = self._magnitude(size) * arithmetic.gamma(self.terms + 1)
        flushed = math.sqrt(self.outputs) * (3 * self.terms + 3) + self.absolute * math.sqrt(self.inputs)
        weights = 4 * arithmetic.tiny * math.sqrt(self.terms * self.outputs)
        return (relative + size * weights).raised(4 * arithmetic.tiny * flushed)


@dataclass(frozen=True)
class Selection:
    """An operation whose outputs are some of its inputs, or 0: nothing is rounded.

    A processor that takes subnormals for 0 may confuse two numbers that are less than 2 tiny apart, and write 0 for
    either: 4 tiny sqrt(N) is added for N outputs.

    Attributes:
        operation: what computes it, in float64 too, and may write over its input.
        factors: its Lipschitz constant with regard to each input, above 1 where inputs are selected more than once.
        arithmetic: the program's.
        stacked: whether each output is one of the inputs in its place, so that those count as lying side by side.
    """

    operation: Callable[..., Any]
    factors: tuple[float, ...]
    arithmetic: Arithmetic
    stacked: bool = False

    def __call__(self, *states: State) -> Applied:
        """Apply it."""
        value = self.operation(*(_copied(state.value) for state in states))
        root = math.sqrt(_count(value))
        none = Off.none(states[0].error)
        error, deviation = none.error + 4 * FLOAT64.tiny * root, none.deviation.raised(4 * self.arithmetic.tiny * root)
        return Applied(value, Off(error, deviation), None)


@dataclass(frozen=True)
class Addition:
    """A sum of terms c_i X_i and a constant k, each a tensor of the network times a number, or times one an element.

    Each output Y of the program satisfies, in any order and with or without fused multiply-adds,

        |Y - sum c_i X_i - k| <= gamma_m (sum |c_i X_i| + |k|) + underflow,

    with m = the number of terms + 6: c_i is rounded to the program's type, and so may its reciprocal be where it
    divides; so are the constant, the product of each, and each sum. Where all c_i are 1 or -1 and there is no k, only
    sums are: m = the number of terms - 1. In norms,

        ||H_out - h_out|| <= sum ||c_i|| ||H_i - h_i|| + gamma_m (sum ||c_i|| ||H_i|| + ||k||) + underflow.

    Underflow: c_i, k, X_i, products, the sums so far and their use as operands are taken for 0 where they are below
    tiny, at most 8 for each term, by which an output changes by 2 tiny (1 + |c_i| + |X_i|) each; 32 tiny sqrt(N) times
    the sum of 1 + ||c_i|| + ||X_i|| and 1 + ||k|| is added for N outputs, which covers its own rounding. The numbers
    c_i count as magnitudes, so that they do not overflow either.

    The same bounds with u of float64 and X = ``value`` hold for the evaluation in float64.

    Attributes:
        operation: what computes it, in float64 too, and may write over its first input.
        factors: ||c_i||, the largest |c_i|, times how much longer broadcasting makes X_i.
        constant: >= ||k|| over all outputs.
        roundings: m.
        outputs: N.
        arithmetic: the program's.
    """

    operation: Callable[..., Tensor]
    factors: tuple[float, ...]
    constant: float
    roundings: int
    outputs: int
    arithmetic: Arithmetic
    stacked = False

    def __call__(self, *states: State) -> Applied:
        """Apply it."""
        value = self.operation(*(_copied(state.value) for state in states))
        here, reach = ([pair[which] for pair in (state.sizes() for state in states)] for which in (0, 1))
        error = safe(self._rounding(here, FLOAT64).constant, self._magnitude(here))
        return Applied(value, Off(error, self._rounding(reach, self.arithmetic)), self._magnitude(reach))

    def _size(self, sizes: Sequence[Growing]) -> Growing:
        """Return sum ||c_i|| ||X_i|| + ||k|| for ||X_i|| <= ``sizes``."""
        total = sizes[0] * self.factors[0]
        for size, factor in zip(sizes[1:], self.factors[1:], strict=True):
            total = total + size * factor
        return total.raised(self.constant)

    def _magnitude(self, sizes: Sequence[Growing]) -> Growing:
        return self._size(sizes).raised(add_up(*self.factors))

    def _rounding(self, sizes: Sequence[Growing], arithmetic: Arithmetic) -> Growing:
        bound = self._size(sizes) * arithmetic.gamma(self.roundings)
        flushed = 32 * arithmetic.tiny * math.sqrt(self.outputs)
        for size in sizes:
            bound = bound + size * flushed
        return bound.raised(flushed * (1 + self.constant + sum(1 + factor for factor in self.factors)))


def _copied(value: Any) -> Any:
    """Copy what an operation may write over."""
    return tuple(part.clone() for part in value) if isinstance(value, tuple | list) else value.clone()


def _count(value: Any) -> int:
    """Count the numbers of one image."""
    parts = value if isinstance(value, tuple | list) else (value,)
    return sum(part[0].numel() for part in parts)
