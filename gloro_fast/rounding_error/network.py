"""The certified radius of the executed program: a walk over the graph, then margins against all deviations."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast.bounds import NetworkBound
from gloro_fast.errors import ExecutionError
from gloro_fast.graph.plan import Plan, as_evaluated, floating_dtype
from gloro_fast.ops.relaxed_margin_op import radii_of_sets
from gloro_fast.rounding import down
from gloro_fast.rounding_error.arithmetic import Arithmetic, Growing, plus, times
from gloro_fast.rounding_error.graph import ExecutedGraph
from gloro_fast.rounding_error.head import Head, Logits, without_head
from gloro_fast.rounding_error.scaling import Scaling
from gloro_fast.rounding_error.steps import Addition, Sums

SPARE = 3.0
"""How many times the error of the float64 evaluation is subtracted: two more than holds, so that another float64
evaluation with the same error bound, whatever the order of its sums, confirms the radius."""


@dataclass(frozen=True)
class Reach:
    """How far differences of logits may be off, for images by their distance from some points.

    For every x' of the program's type, at a distance d <= ``limit[c]`` from the point c, |(F_j - F_i)(x') -
    (f_j - f_i)(x')| <= ``constant[c, j, i] + slope[j, i] d``, with F what the program gives and f the real logits.

    Attributes:
        centres: (C, *input_shape) float64, the points.
        constant: (C, m, m) float64.
        slope: (m, m) float64.
        limit: (C,) float64, the distance up to which no sum overflows.
    """

    centres: Tensor
    constant: Tensor
    slope: Tensor
    limit: Tensor


@dataclass(frozen=True)
class ExecutedNet:
    """A network with the bounds on its rounding, for the weights that were bounded.

    Attributes:
        graph: all nodes before the head.
        head: what the last layer does if it is dense.
        bound: the Lipschitz bound that was signed.
        differences: (m, m) float64, those of the head that were signed with it.
    """

    graph: ExecutedGraph
    head: Head | None
    bound: NetworkBound
    differences: Tensor

    @classmethod
    def of(cls, module: nn.Module, plan: Plan, bound: NetworkBound, differences: Tensor) -> ExecutedNet:
        """Look at every layer of ``plan``, whose weights ``bound`` and ``differences`` hold for.

        Raises:
            ConfigError: the net is in half precision.
            ArchitectureError: it is not known how a layer rounds; names it.
        """
        arithmetic = Arithmetic.of(floating_dtype(module))
        with as_evaluated(module, plan.device):
            graph = ExecutedGraph.of(plan, bound, arithmetic)
            head = None if plan.head is None else Head.of(plan, plan.head, arithmetic)
        return cls(graph, head, bound, differences)

    def absolute_norms(self) -> dict[str, float]:
        """Return || |W| || of the linear layers before the head, as bounded, by name."""
        steps = [place.step for place in self.graph.places]
        return {step.name: step.absolute for step in steps if isinstance(step, Sums)}

    def scaled_places(self) -> list[int]:
        """List the nodes that multiply by numbers, or add them, and may be merged with the linear layer before."""
        return [
            place.node
            for place in self.graph.places
            if isinstance(place.step, Scaling) or (isinstance(place.step, Addition) and len(place.step.factors) == 1)
        ]

    @torch.no_grad()
    def radii(self, x: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
        """Return float64 (B, K) <= every epsilon at which the program might put another class among the first k.

        For j among the first k of ``classes``, every i behind, and every x' of the program's type with
        ||x' - x|| <= epsilon, the logits F of the program and the real ones f obey

            F_j(x') - F_i(x') >= f_j(x) - f_i(x) - epsilon K_ij - E_ij,     E_ij = D_ij deviation + r_i + r_j,

        with D_ij = ||w_i - w_j||, or what stands for it (:class:`gloro_fast.graph.head.Head`), the deviation before the
        last layer and the rounding r of that layer's sums. Both bounds grow with the ball as constant + slope *
        epsilon, so that the right side is positive for every

            epsilon < min over j, i of (f_j(x) - f_i(x) - constant_ij) / (K_ij + slope_ij):

        one radius, whatever epsilon is asked for. f_j(x) - f_i(x) is the evaluation in float64 less its error bound.
        An image gets 0 where that is not positive, and no more than the epsilon at which a sum might overflow.

        Args:
            x: (B, *input_shape) images of the program's type.
            logits: (B, m), what the program gave for them.
            classes: (B, K), the likeliest of them in their order: for k = 1 the radius is that of the prediction.

        Raises:
            ExecutionError: the logits are further from the real ones than any order of sums explains.
        """
        state = self.graph(x)
        real = self.head(state) if self.head is not None else without_head(state)
        _check_explained(real, logits)
        finite = (real.value.isfinite() & logits.isfinite()).all(dim=1) & ~real.limit.isnan()
        return radii_of_sets(classes, (self._pair_radii(real, finite, leader) for leader in classes.unbind(1)))

    def _pair_radii(self, real: Logits, finite: Tensor, leader: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far each F_i stays below F_j for j = ``leader`` (B,), as (B, m), and where that is known."""
        differences = self.differences[leader]
        error = real.error_of_pairs(leader, differences)
        deviation = real.deviation_of_pairs(leader, differences)
        gap = down(real.value.gather(1, leader[:, None]) - real.value)
        gap = down(down(gap - times(error, SPARE)) - deviation.constant)
        slope = plus(times(differences, self.bound.lipschitz), deviation.slope)
        quotient = torch.where(gap > 0, down(gap / slope).clamp_min(0.0), 0.0)
        return torch.minimum(quotient, real.limit[:, None]), finite & slope.isfinite().all(dim=1)

    @torch.no_grad()
    def around(self, centres: Tensor) -> Reach:
        """Bound the rounding at every distance from some points, from what is known at the points alone.

        Args:
            centres: (C, *input_shape) float64.
        """
        state = self.graph(centres)
        real = self.head(state) if self.head is not None else without_head(state)
        differences = self.differences
        classes = torch.arange(len(differences), device=centres.device)
        found = []
        for value, deviation, rounding in zip(real.value, real.deviation.constant, real.rounding.constant, strict=True):
            rows = dataclasses.replace(
                real,
                deviation=Growing(deviation.expand(len(classes)), real.deviation.slope),
                rounding=Growing(rounding.expand(len(classes), -1), real.rounding.slope),
            )
            off = rows.deviation_of_pairs(classes, differences)
            known = value.isfinite().all() & ~off.constant.isnan()
            found.append(Growing(torch.where(known, off.constant, math.inf), off.slope.nan_to_num(nan=math.inf)))
        return Reach(centres, torch.stack([off.constant for off in found]), found[0].slope, real.limit)


def _check_explained(real: Logits, logits: Tensor) -> None:
    unexplained = real.unexplained(logits)
    if unexplained is not None:
        raise ExecutionError(
            f"a logit is {unexplained[0]:.3g} off its real value, of which sums of products in "
            f"{logits.dtype} explain {unexplained[1]:.3g}: the layers are computed in another way; "
            "certify without executed"
        )
