"""Power iteration through every layer of a network and its transpose (Leino et al. 2021, Section 4.2).

It approaches each spectral norm from below: an estimate to train with, never a bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gloro_fast.ops.geometry import Geometry


def power_iteration_reference(
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    geometries: Sequence[Geometry],
    iterations: int,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run ``iterations`` steps v <- A^T A v / ||A^T A v|| for every layer, in plain PyTorch.

    The iterates are constants to autograd; the gradient flows through the last application only, so that
    d sigma / d W = u v^T (of a convolution: its weight gradient at input v and output gradient u). Zero weights
    give sigma = 0, keep their v, and have a finite gradient.

    Args:
        weights: L weights, (out, in) or (out, in / groups, *kernel), any floating dtype.
        v: L iterates of the layers' input shapes, unit norm, float32 or float64.
        geometries: L geometries.
        iterations: steps T >= 0.

    Returns:
        sigma: (L,) estimates <= the spectral norms up to rounding, float32 (float64 where a v is).
        v_new: L iterates of unit norm.
        u: L unit vectors A v / ||A v|| of the layers' output shapes.
    """
    sigmas, v_new, u_new = [], [], []
    for weight, start, geometry in zip(weights, v, geometries, strict=True):
        operator = weight.to(start.dtype)
        with torch.no_grad():
            right = start
            for _ in range(iterations):
                left = normalize(geometry.apply(operator, right), otherwise=None)
                right = normalize(geometry.adjoint(operator, left), otherwise=right)
            left = normalize(geometry.apply(operator, right), otherwise=None)
        sigmas.append((left * geometry.apply(operator, right)).sum())
        v_new.append(right)
        u_new.append(left)
    return torch.stack(sigmas) if sigmas else torch.zeros(0), v_new, u_new


def power_iteration(
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    geometries: Sequence[Geometry],
    iterations: int,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run the power iteration of every layer; see ``power_iteration_reference``."""
    return power_iteration_reference(weights, v, geometries, iterations)


def normalize(x: Tensor, otherwise: Tensor | None) -> Tensor:
    """Scale ``x`` to unit l2 norm; the zero vector becomes ``otherwise`` (itself if None).

    The largest entry is divided out first: the squares of a vector of 1e-23 would vanish in float32, and a
    norm of 0 would certify everything.
    """
    largest = x.abs().amax()
    nonzero = largest > 0
    scaled = x / torch.where(nonzero, largest, 1.0)
    unit = scaled / torch.where(nonzero, torch.linalg.vector_norm(scaled), 1.0)
    return unit if otherwise is None else torch.where(nonzero, unit, otherwise)
