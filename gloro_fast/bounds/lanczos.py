"""The Lanczos process: an estimate of a spectral norm that many bounds begin with, and none rests on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gloro_fast.ops.geometry import Geometry

_BETWEEN_CHECKS = 8


def lanczos(weight: Tensor, geometry: Geometry, tolerance: float, max_steps: int = 300) -> float:
    """Give an ESTIMATE <= the spectral norm of a layer, up to rounding, from the Krylov space of A^T A.

    It needs a tenth of power iteration's steps. The start is a fixed random vector.

    Args:
        weight: float64, of moderate size.
        geometry: of the layer.
        tolerance: go on until the estimate changes by less than this, relatively, as far as the residual tells.
        max_steps: at most; each keeps a vector of the input's size.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(geometry.input_shape, generator=generator, dtype=torch.float64).to(weight.device)
    vector = (start / torch.linalg.vector_norm(start)).flatten()
    steps = min(max_steps, vector.numel())
    basis = vector.new_empty(steps, vector.numel())
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        basis[step] = vector
        image = geometry.apply(weight, vector.reshape(geometry.input_shape))
        residual = geometry.adjoint(weight, image).flatten()
        diagonal.append(float(residual @ vector))
        known = basis[: step + 1]
        # Twice, for the first pass leaves rounding of the size of what it takes away.
        residual = residual - known.mT @ (known @ residual)
        residual = residual - known.mT @ (known @ residual)
        norm = float(torch.linalg.vector_norm(residual))
        done = step + 1 == steps or norm <= 1e-14 * max(diagonal)
        if done or step % _BETWEEN_CHECKS == _BETWEEN_CHECKS - 1:
            values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
            largest = float(values[-1])
            rest = norm * abs(float(vectors[-1, -1]))
            gap = float(values[-1] - values[-2]) if step else 0.0
            if done or min(rest, rest * rest / gap if gap else rest) <= 2 * tolerance * largest:
                break
        beside.append(norm)
        vector = residual / norm
    return math.sqrt(max(largest, 0.0))


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    off = torch.diag(torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64), 1)
    return matrix + off + off.mT
