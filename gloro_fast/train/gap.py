"""How much larger an upper bound of K is than the estimate by power iteration, epoch by epoch."""

from __future__ import annotations

import math

from gloro_fast.bounds import DEFAULT_METHOD
from gloro_fast.net.gloro_net import GloRoNet

# Floating-point operations: a few seconds, where an epoch of such a net takes minutes.
_AFFORDABLE = 2e11

# On a GPU the bound takes 0.1 to 0.55 s (H100), as long as some epochs.
_TIMES_A_RUN = 10


def is_due(epoch: int, epochs: int) -> bool:
    """Return whether to find the gap after ``epoch``, from 1: some ten times in ``epochs``, the last among them."""
    return (epochs - epoch) % -(-epochs // _TIMES_A_RUN) == 0


def bound_gap(net: GloRoNet, estimate: float | None) -> float | None:
    """Return the upper bound of K by the default method, over the estimate.

    Args:
        net: with the weights at the end of an epoch.
        estimate: K of these weights by ``power``, if it is known.

    Returns:
        The quotient; None for a net that takes too long to bound, and where it is no number.
    """
    if net.bound_work() > _AFFORDABLE:
        return None
    if estimate is None:
        estimate = net.find_bound("power").lipschitz
    bound = net.find_bound(DEFAULT_METHOD).lipschitz
    return bound / estimate if 0 < estimate < math.inf and bound < math.inf else None
