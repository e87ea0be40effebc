"""What each kind of layer does to a batch and to the bounds on its rounding: one class a kind.

Notation: h(x) is what the layers so far give in real arithmetic, H(x) what the executed program gives; x' is any input
of the program's type with ||x' - x|| <= epsilon. All norms are l2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast.bounds.rounding import product_up
from gloro_fast.executed.arithmetic import Arithmetic, Growing, norms, plus, times

FLOAT64 = Arithmetic.of(torch.float64)


@dataclass(frozen=True)
class State:
    """What is known behind a layer, for a batch of B images x.

    Attributes:
        value: (B, ...) float64, h(x) evaluated in float64.
        error: (B,), >= ||value - h(x)||; inf where float64 may have overflowed.
        lipschitz: a Lipschitz constant of h.
        deviation: >= ||H(x') - h(x')||.
        limit: (B,), epsilon up to which no sum overflows in the program.
    """

    value: Tensor
    error: Tensor
    lipschitz: float
    deviation: Growing
    limit: Tensor

    @classmethod
    def of_images(cls, x: Tensor) -> State:
        """Begin with images (B, ...), which are what they are: no deviation."""
        value = x.detach().double()
        zeros = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return cls(value, zeros, 1.0, Growing(zeros, zeros.new_zeros(())), torch.full_like(zeros, math.inf))

    def reach(self) -> Growing:
        """Bound ||H(x')|| <= ||value|| + error + lipschitz * epsilon + deviation."""
        real = Growing(plus(norms(self.value), self.error), self.error.new_tensor(self.lipschitz))
        return real + self.deviation

    def within(self, magnitude: Growing, arithmetic: Arithmetic) -> Tensor:
        """Give ``limit`` with the epsilon up to which ``magnitude`` is at most an eighth of the largest number."""
        room = arithmetic.largest / 8 - magnitude.constant
        # 1 - 2^-40 covers the rounding of difference and quotient.
        return torch.minimum(self.limit, (room / magnitude.slope * (1 - 2.0**-40)).clamp_min(0.0))


Step = Callable[[State], State]


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
    layer: nn.Module
    spectral: float
    absolute: float
    terms: int
    outputs: int
    inputs: int
    bias: float
    arithmetic: Arithmetic

    def __call__(self, state: State) -> State:
        """Apply the layer."""
        value: Tensor = self.layer(state.value)
        seen, reach = norms(state.value), state.reach()
        here = Growing(seen, seen.new_zeros(()))
        error = plus(times(state.error, self.spectral), self._rounding(here, FLOAT64).constant)
        safe = self._magnitude(here).constant <= FLOAT64.largest / 8
        return State(
            value,
            torch.where(safe, error, math.inf),
            product_up([self.spectral, state.lipschitz]),
            state.deviation * self.spectral + self._rounding(reach, self.arithmetic),
            state.within(self._magnitude(reach), self.arithmetic),
        )

    def _magnitude(self, size: Growing) -> Growing:
        """Give a ||X|| + ||b|| for ||X|| <= ``size``."""
        return (size * self.absolute).raised(self.bias)

    def _rounding(self, size: Growing, arithmetic: Arithmetic) -> Growing:
        relative = self._magnitude(size) * arithmetic.gamma(self.terms + 1)
        flushed = math.sqrt(self.outputs) * (3 * self.terms + 3) + self.absolute * math.sqrt(self.inputs)
        weights = 4 * arithmetic.tiny * math.sqrt(self.terms * self.outputs)
        return (relative + size * weights).raised(4 * arithmetic.tiny * flushed)


@dataclass(frozen=True)
class Selection:
    """A layer whose outputs are some of its inputs, or 0: nothing is rounded.

    A processor that takes subnormals for 0 may confuse two numbers that are less than 2 tiny apart, and write 0 for
    either: 4 tiny sqrt(N) is added for N outputs.

    Attributes:
        layer: the layer, for float64.
        constant: its Lipschitz constant, above 1 where inputs are selected more than once.
        arithmetic: the program's.
    """

    layer: nn.Module
    constant: float
    arithmetic: Arithmetic

    def __call__(self, state: State) -> State:
        """Apply the layer."""
        # A copy, over which the layer may write.
        value: Tensor = self.layer(state.value.clone())
        root = math.sqrt(value[0].numel())
        return State(
            value,
            plus(times(state.error, self.constant), 4 * FLOAT64.tiny * root),
            product_up([self.constant, state.lipschitz]),
            (state.deviation * self.constant).raised(4 * self.arithmetic.tiny * root),
            state.limit,
        )
