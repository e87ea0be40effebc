"""The Lanczos process: an estimate of a spectral norm that many bounds begin with, and none rests on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gloro_fast.ops.geometry import Geometry

_BETWEEN_CHECKS = 8


def lanczos(weight: Tensor, geometry: Geometry, tolerance: float, seed: int = 0, max_steps: int = 1000) -> float:
    """Give an ESTIMATE <= the spectral norm of a layer, up to rounding, from the Krylov space of A^T A.

    It needs a tenth of power iteration's steps. Nothing is made orthogonal to more than the two vectors before: what is
    found several times for that is the largest value, the only one wanted.

    Args:
        weight: float64, of moderate size.
        geometry: of the layer.
        tolerance: go on until A^T A has an eigenvalue as near as this to the estimate's square, relatively. That it is
            the largest is likely, not certain: values apart by less than that can hide it.
        seed: of the random vector that it starts from.
        max_steps: at most.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(geometry.input_shape, generator=generator, dtype=torch.float64).to(weight.device)
    vector = start / torch.linalg.vector_norm(start)
    before = torch.zeros_like(vector)
    diagonal: list[float] = []
    beside: list[float] = []
    largest, check = 0.0, _BETWEEN_CHECKS
    for step in range(max_steps):
        image = geometry.adjoint(weight, geometry.apply(weight, vector))
        diagonal.append(float((image * vector).sum()))
        residual = image - diagonal[-1] * vector - (beside[-1] * before if beside else 0.0)
        norm = float(torch.linalg.vector_norm(residual))
        done = step + 1 == max_steps or norm <= 1e-14 * max(diagonal)
        if done or step >= check:
            # Not every few steps: what a check takes grows with the cube of their number.
            check = step + max(_BETWEEN_CHECKS, step // 8)
            values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
            largest = float(values[-1])
            if done or norm * abs(float(vectors[-1, -1])) <= tolerance * largest:
                break
        beside.append(norm)
        before, vector = vector, residual / norm
    return math.sqrt(max(largest, 0.0))


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    off = torch.diag(torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64), 1)
    return matrix + off + off.mT
