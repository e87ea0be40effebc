"""The logits of a batch with the bounds on their rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph import head as graph
from gloro_fast.graph.node import Layer, Mapping
from gloro_fast.graph.plan import Plan
from gloro_fast.rounding_error.arithmetic import Arithmetic, Growing, norms, plus, times
from gloro_fast.rounding_error.functions import with_constants
from gloro_fast.rounding_error.kinds import make_step
from gloro_fast.rounding_error.state import FLOAT64, State, within
from gloro_fast.rounding_error.steps import Selection


@dataclass(frozen=True)
class Logits:
    """What is known of the m logits of B images; "before" means before the last layer, if that is dense.

    Attributes:
        value: (B, m) float64, f(x) evaluated in float64.
        rows: (m,) >= ||w_i||; 1 where the last layer is not dense.
        error: (B,) error of the float64 evaluation before.
        evaluation: (B, m) rounding of the sums of the float64 evaluation.
        deviation: (B,) of the program before.
        rounding: (B, m) of the program's sums.
        limit: (B,) epsilon up to which no sum overflows.
    """

    value: Tensor
    rows: Tensor
    error: Tensor
    evaluation: Tensor
    deviation: Growing
    rounding: Growing
    limit: Tensor

    def error_of_pairs(self, prediction: Tensor, differences: Tensor) -> Tensor:
        """Bound the error of value_j - value_i for j = ``prediction``; ``differences`` (B, m) are their D_ij."""
        own = self.evaluation.gather(1, prediction[:, None])
        return plus(plus(times(differences, self.error[:, None]), self.evaluation), own)

    def deviation_of_pairs(self, prediction: Tensor, differences: Tensor) -> Growing:
        """Bound how far the program's F_j - F_i is from f_j - f_i, likewise; all of (B, m)."""
        constant = plus(times(differences, self.deviation.constant[:, None]), self.rounding.constant)
        slope = plus(times(differences, self.deviation.slope), self.rounding.slope)
        own = Growing(self.rounding.constant.gather(1, prediction[:, None]), self.rounding.slope[prediction][:, None])
        return Growing(constant, slope) + own

    def unexplained(self, logits: Tensor) -> tuple[float, float] | None:
        """Return how far a logit of the program is off ``value``, and how far it may be, where it is too far.

        Only finite logits are looked at.
        """
        before = plus(self.deviation.constant, self.error)[:, None] * self.rows
        allowed = plus(plus(plus(before, self.rounding.constant), self.evaluation), before * 2.0**-50)
        found = (logits.double() - self.value).abs()
        # Where a sum may have overflowed, anything may be.
        beyond = found.isfinite() & (found > allowed) & (self.limit > 0)[:, None]
        return (float(found[beyond].max()), float(allowed[beyond].max())) if bool(beyond.any()) else None


@dataclass(frozen=True)
class Head:
    """A dense last layer: the bounds of :class:`~gloro_fast.rounding_error.steps.Sums`, one a row.

    With X the program's input to it, logit i is off (W X + b)_i by at most gamma (||w_i|| ||X|| + |b_i|) and underflow.
    What follows selects, each logit for itself: it rounds nothing, and moves no logit further than it was off.

    Attributes:
        weight: (m, d) float64, its rows w_i.
        bias: (m,) float64.
        rows: (m,) >= ||w_i||.
        tail: what follows.
        arithmetic: the program's.
    """

    weight: Tensor
    bias: Tensor
    rows: Tensor
    tail: tuple[Selection, ...]
    arithmetic: Arithmetic

    @classmethod
    def of(cls, plan: Plan, head: graph.Head, arithmetic: Arithmetic) -> Head:
        """Take the weights of a dense layer.

        Raises:
            ArchitectureError: it is not known how it, or what follows, rounds; names it.
        """
        weight = head.weight().detach().double().clone()
        if isinstance(head.dense, Layer):
            own = head.dense.module.bias
            assert own is None or isinstance(own, Tensor)
            bias = weight.new_zeros(len(weight)) if own is None else own.detach().double().clone()
        else:
            shape = plan.nodes[plan.nodes[head.node].inputs[0]].shape
            bias = with_constants(plan.nodes, head.node).at_zero([shape]).flatten()
        tail = tuple(_selection(mapping, shape, arithmetic) for mapping, shape in head.tail)
        return cls(weight, bias, norms(weight), tail, arithmetic)

    def __call__(self, state: State) -> Logits:
        """Return the logits."""
        value = F.linear(state.value.flatten(1), self.weight, self.bias)
        for step in self.tail:
            value = step.operation(value)
        here, reach = state.sizes()
        safe = self._magnitude(here).constant <= FLOAT64.largest / 8
        evaluation = torch.where(safe, self._rounding(here, FLOAT64).constant, math.inf)
        magnitude, rounding = self._magnitude(reach), self._rounding(reach, self.arithmetic)
        largest = Growing(magnitude.constant.amax(dim=1), magnitude.slope.amax())
        limit = within(state.limit, largest, self.arithmetic)
        return Logits(value, self.rows, state.error, evaluation, state.deviation, rounding, limit)

    def _magnitude(self, size: Growing) -> Growing:
        products = Growing(times(size.constant[:, None], self.rows), times(size.slope, self.rows))
        return products.raised(self.bias.abs())

    def _rounding(self, size: Growing, arithmetic: Arithmetic) -> Growing:
        terms = self.weight.shape[1]
        relative = self._magnitude(size) * arithmetic.gamma(terms + 1)
        weights = size * (4 * arithmetic.tiny * math.sqrt(terms))
        flushed = 4 * arithmetic.tiny * (3 * terms + 3 + len(self.tail) + math.sqrt(terms) * self.rows)
        return Growing(plus(relative.constant, weights.constant[:, None]), plus(relative.slope, weights.slope)).raised(
            flushed
        )


def _selection(mapping: Mapping, shape: tuple[int, ...], arithmetic: Arithmetic) -> Selection:
    if not isinstance(mapping, Layer):
        raise _unbounded(mapping.name)
    step = make_step(mapping.name, mapping.module, shape, mapping.rule(), 1.0, arithmetic)
    if not isinstance(step, Selection):
        raise _unbounded(mapping.name)
    return step


def _unbounded(name: str) -> ArchitectureError:
    return ArchitectureError(f"{name} gives logits whose rounding is not bounded; certify without executed")


def without_head(state: State) -> Logits:
    """Take the output of a layer that is not dense for the logits: each moves with the whole."""
    zeros = torch.zeros_like(state.value)
    return Logits(
        state.value,
        zeros.new_ones(zeros.shape[1]),
        state.error,
        zeros,
        state.deviation,
        Growing(zeros, zeros.new_zeros(zeros.shape[1])),
        state.limit,
    )
