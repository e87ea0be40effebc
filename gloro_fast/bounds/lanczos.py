"""The Lanczos process: an estimate of a spectral norm that many bounds begin with, and none rests on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gloro_fast.ops.geometry import Geometry

_BETWEEN_CHECKS = 8
# Up to this order all eigenvalues are found sooner.
_DIRECT = 32
_TINY = 1e-300


def lanczos(weight: Tensor, geometry: Geometry, tolerance: float, seed: int = 0, max_steps: int = 1000) -> float:
    """Return an ESTIMATE <= the spectral norm of a layer, up to rounding, from the Krylov space of A^T A.

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


def largest_ritz_values(
    matrices: Tensor, tolerance: float, floor: float = 0.0, seed: int = 0, max_steps: int = 1000
) -> Tensor:
    """Return ESTIMATES <= the largest eigenvalues of Hermitian matrices, up to rounding, from a Krylov space of each.

    Only the largest of them is wanted: those that are left behind are not followed further.

    Args:
        matrices: (B, n, n) float64 or complex128, of moderate size.
        tolerance: as for :func:`lanczos`.
        floor: values below are not wanted either.
        seed: of the random vectors.
        max_steps: at most.

    Returns:
        (B,) float64.
    """
    count, order, _ = matrices.shape
    if order <= _DIRECT:
        values: Tensor = torch.linalg.eigvalsh(matrices)
        return values[:, -1]
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(order, 2, generator=generator, dtype=torch.float64).to(matrices.device)
    vector = torch.view_as_complex(vector) if matrices.is_complex() else vector[:, 0]
    vector = (vector / torch.linalg.vector_norm(vector)).expand(count, -1)
    found = torch.zeros(count, dtype=torch.float64, device=matrices.device)
    active = torch.arange(count, device=matrices.device)
    before = torch.zeros_like(vector)
    diagonal = found.new_zeros(count, 0)
    beside = found.new_zeros(count, 0)
    check = _BETWEEN_CHECKS
    for step in range(1, max_steps + 1):
        image = (matrices @ vector[:, :, None])[:, :, 0]
        alpha = torch.linalg.vecdot(vector, image).real
        image = image - alpha[:, None] * vector
        if step > 1:
            image = image - beside[:, -1:] * before
        norm = torch.linalg.vector_norm(image, dim=1)
        diagonal, beside = torch.cat([diagonal, alpha[:, None]], dim=1), torch.cat([beside, norm[:, None]], dim=1)
        if step >= check or step == max_steps:
            check = step + max(_BETWEEN_CHECKS, step // 8)
            off = torch.diag_embed(beside[:, :-1], 1)
            # A GPU's library takes such small matrices one by one.
            tridiagonal = (torch.diag_embed(diagonal) + off + off.mT).cpu()
            values, vectors = (part.to(matrices.device) for part in torch.linalg.eigh(tridiagonal))
            ritz, residual = values[:, -1], norm * vectors[:, -1, -1].abs()
            found[active] = torch.maximum(found[active], ritz)
            largest = max(floor, float(found.max()))
            follow = (residual > tolerance * ritz) & (ritz + residual > largest)
            if not bool(follow.any()):
                break
            if not bool(follow.all()):
                active, matrices = active[follow], matrices[follow]
                vector, image, norm = vector[follow], image[follow], norm[follow]
                diagonal, beside = diagonal[follow], beside[follow]
        # Not by 0, where the space is exhausted: then nothing follows.
        before, vector = vector, image / norm[:, None].clamp_min(_TINY)
    return found
