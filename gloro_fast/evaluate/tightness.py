"""How tight the Lipschitz bound of a net is: its upper bound against lower bounds (Leino et al. 2021, Figure 4c)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import SoundnessError
from gloro_fast.evaluate.lower_bounds import (
    GLOBAL_STEPS,
    LOCAL_STEPS,
    PAIRS,
    LowerBounds,
    global_lower_bounds,
    local_lower_bounds,
    margin_bounds,
)
from gloro_fast.net.gloro_net import GloRoNet


@dataclass(frozen=True)
class Tightness:
    """Bounds on the Lipschitz constants of the margins of a net.

    Attributes:
        upper: max over i, j of K_ij.
        method: the method that found it, with "(estimate)" where it is none but that.
        global_lower: the largest slope found anywhere.
        local_lower: mean over balls of the largest slope found in each.
        epsilon: the l2 radius of the balls.
        global_slopes: of each initial pair, ascending.
        local_slopes: of each ball, ascending.
        global_steps: gradient steps until nothing moved.
        local_steps: likewise.
    """

    upper: float
    method: str
    global_lower: float
    local_lower: float
    epsilon: float
    global_slopes: tuple[float, ...]
    local_slopes: tuple[float, ...]
    global_steps: int
    local_steps: int

    @property
    def global_ratio(self) -> float:
        """The largest slope over the upper bound, in [0, 1] if that is one; 0 for a constant net."""
        return self.global_lower / self.upper if self.upper > 0 else 0.0

    @property
    def local_ratio(self) -> float:
        """The mean local slope over the upper bound."""
        return self.local_lower / self.upper if self.upper > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {**asdict(self), "global_ratio": self.global_ratio, "local_ratio": self.local_ratio}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tightness:
        """Read what :meth:`to_dict` gave, after a way through JSON perhaps."""
        own = {field.name: values[field.name] for field in fields(cls)}
        slopes = {name: tuple(own[name]) for name in ("global_slopes", "local_slopes")}
        return cls(**{**own, **slopes})


def tightness(
    net: GloRoNet,
    images: Tensor,
    epsilon: float,
    *,
    pairs: int = PAIRS,
    global_steps: int = GLOBAL_STEPS,
    local_steps: int = LOCAL_STEPS,
    seed: int = 0,
) -> Tightness:
    """Bound the Lipschitz constants of the margins from both sides.

    Args:
        net: the net, in float32, its upper bound by the method that it is frozen with.
        images: (N, *input_shape) float32, the test images.
        epsilon: l2 radius of the local balls.
        pairs: initial pairs, and balls.
        global_steps: gradient steps for the global bound, at most.
        local_steps: gradient steps for the local bounds, at most.
        seed: of the choice of images.

    Raises:
        SoundnessError: a margin is steeper between two points than its upper bound allows. One of the two is wrong,
            so there is no result.

    Warns:
        UserWarning: the same where the method is an estimate, which may well lie below the constant.
    """
    anywhere = global_lower_bounds(net, images, pairs=pairs, steps=global_steps, seed=seed)
    check_below(net, anywhere, "global")
    nearby = local_lower_bounds(net, images, epsilon, points=pairs, steps=local_steps, seed=seed)
    check_below(net, nearby, "local")
    return Tightness(
        upper=float(margin_bounds(net).max()),
        method=net.bound.label,
        global_lower=float(anywhere.slopes.max()),
        local_lower=float(nearby.slopes.mean()),
        epsilon=epsilon,
        global_slopes=tuple(anywhere.slopes.sort().values.tolist()),
        local_slopes=tuple(nearby.slopes.sort().values.tolist()),
        global_steps=anywhere.steps,
        local_steps=nearby.steps,
    )


def check_below(net: GloRoNet, found: LowerBounds, which: str) -> None:
    """Compare the slope of every margin with its upper bound K_ij, strictly.

    Args:
        net: the net.
        found: slopes, with rounding already allowed for.
        which: what to call them.

    Raises:
        SoundnessError: one lies above, and the method is a bound.

    Warns:
        UserWarning: one lies above, and the method is an estimate.
    """
    upper = margin_bounds(net)
    beyond = found.margins > upper
    if not bool(beyond.any()):
        return
    excess = torch.where(beyond, found.margins - upper, -torch.inf)
    a, b = divmod(int(excess.argmax()), len(upper))
    fact = (
        f"f_{a} - f_{b} has a {which} lower bound of {float(found.margins[a, b]):.9g}, above K_{a},{b} = "
        f"{float(upper[a, b]):.9g} by {net.bound.label}"
    )
    if net.bound.kind == "estimate":
        warnings.warn(
            f"{fact}: the estimate is too low for this net, and so are its radii; use --method auto", stacklevel=2
        )
    else:
        raise SoundnessError(f"{fact}: one of the two is wrong, so nothing certified by this bound can be trusted")
