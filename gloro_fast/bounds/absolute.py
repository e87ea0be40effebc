"""The norm of a layer with the absolute values of its weights: how far the rounding of its sums can reach."""

from __future__ import annotations

import math

import torch

from gloro_fast.rules.registry import LinearMap

_UNIT_ROUNDOFF = 2.0**-53
_CLOSE = 1.001
_STEPS = 200
_FLOOR = 1e-9


@torch.no_grad()
def absolute_norm(layer: LinearMap) -> float:
    """Return a float >= || |W| ||_2, the spectral norm of the layer with every weight w taken as |w|; never 0.

    It holds for the real numbers that the weights are. || |W| ||^2 is the spectral radius of the nonnegative matrix
    A = |W|^T |W|, and for every vector v > 0 that is at most max_k (A v)_k / v_k (Collatz 1942, Wielandt 1950). So
    every step of a power iteration gives a bound, with v kept above a floor; the least counts. It stops where that is
    within a factor 1.001 of ||A v|| / ||v||, a lower bound, or after 200 steps.

    Rounding, u = 2^-53, N weights: all terms are >= 0, so that a sum of n <= N products in any order is within
    (1 + u)^(n + 1) of the real one and A v, two such sums, within (1 + u)^(2 N + 2); quotient and root add less than
    2 more. The result is enlarged by 1 + 4 (N + 8) u, and by 1 + 2^-30 so that a second computation, with sums in
    another order, confirms it. Weights are scaled by a power of two to a largest in [1/2, 1), so that A has a
    diagonal entry >= 1/4: what underflows adds less than the second factor. A processor that flushes subnormals to
    zero may change each weight by less than the smallest normal number s of its type: N s is added.

    Args:
        layer: weight of any floating dtype and geometry; computed in float64 on the weight's device.

    Returns:
        inf where a weight is not finite.
    """
    weight, geometry = layer.weight.detach().double().abs().contiguous(), layer.geometry
    terms = weight.numel()
    flushed = terms * torch.finfo(torch.promote_types(layer.weight.dtype, torch.float32)).tiny
    largest = float(weight.max())
    if not math.isfinite(largest):
        return math.inf
    if largest == 0.0:
        return flushed
    exponent = math.frexp(largest)[1]
    # In two halves: 2^-exponent alone may overflow.
    weight = weight * 2.0 ** -(exponent // 2) * 2.0 ** -(exponent - exponent // 2)
    v = torch.ones(geometry.input_shape, dtype=torch.float64, device=weight.device)
    least = math.inf
    for _ in range(_STEPS):
        image = geometry.adjoint(weight, geometry.apply(weight, v))
        least = min(least, float((image / v).max()))
        if least <= _CLOSE * float(torch.linalg.vector_norm(image) / torch.linalg.vector_norm(v)):
            break
        v = (image / image.max()).clamp_min(_FLOOR)
    bound = math.sqrt(least) * (1 + 4 * (terms + 8) * _UNIT_ROUNDOFF) * (1 + 2.0**-30)
    try:
        return math.nextafter(math.ldexp(bound, exponent) + flushed, math.inf)
    except OverflowError:
        return math.inf
