"""Power iteration to convergence, as in the paper: an estimate of a spectral norm, not a bound."""

from __future__ import annotations

import math

import torch

from gloro_fast.bounds.layer import LayerBound
from gloro_fast.ops.normalize import normalize
from gloro_fast.ops.power_iteration_op import power_iteration
from gloro_fast.rules.registry import LinearMap

TOLERANCE = 1e-5
MAX_ITERATIONS = 5000
# One call does so many iterations, but for the last: a call for each would pack the weights anew every time.
_BETWEEN_LOOKS = 8


@torch.no_grad()
def power(name: str, layer: LinearMap) -> LayerBound:
    """Return an ESTIMATE <= the spectral norm of the layer's weight, up to float64 rounding.

    It approaches the norm from below and stops when one iteration, every eighth being looked at, changes it by less
    than a relative 1e-5, after 5,000 iterations at most (Leino et al. 2021, Section 4.2). That says nothing of the
    distance to the norm, so it serves for comparison with the paper. It depends on the weight alone: the start is a
    fixed random vector. A non-zero weight whose estimate underflows to 0, and a weight with NaN, give inf.

    Args:
        name: the layer's name, for the result.
        layer: weight of any floating dtype and geometry; computed in float64 on the weight's device.
    """
    # In one memory format: another adds in another order.
    weight, geometry = layer.weight.detach().double().contiguous(), layer.geometry
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(geometry.input_shape, generator=generator, dtype=torch.float64)
    v = normalize(start.to(weight.device), otherwise=None)
    sigma, iterations, converged = 0.0, 0, False
    while iterations < MAX_ITERATIONS and not converged:
        (before,), (v,), _ = power_iteration([weight], [v], [geometry], _BETWEEN_LOOKS - 1)
        (after,), (v,), _ = power_iteration([weight], [v], [geometry], 1)
        previous, sigma = float(before), float(after)
        converged = abs(sigma - previous) <= TOLERANCE * sigma
        iterations += _BETWEEN_LOOKS
    if not math.isfinite(sigma) or (sigma == 0.0 and bool(weight.any())):
        sigma = math.inf
    return LayerBound(name, sigma, "power", "estimate", iterations, converged)
