"""Maps from matrices without a constraint to matrices with orthonormal rows or columns, real or complex, in batches.

They compute in float64, whatever they get: the Gram matrices that they solve with square the condition number, and
autocast leaves float64 alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cayley(matrix: Tensor) -> Tensor:
    """Return the Cayley transform of ``matrix`` (..., m, n), of the same shape, with orthonormal rows or columns.

    Trockman and Kolter, "Orthogonalizing convolutional layers with the Cayley transform", ICLR 2021: of
    U (n, n) above V (m - n, n), with A = U - U^H + V^H V, it is (I - A) (I + A)^-1 above -2 V (I + A)^-1. The Hermitian
    part of I + A is I + V^H V, so that every matrix has one. Where m < n it is that of the transpose, transposed.

    Returns:
        float64 or complex128.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        return cayley(matrix.mT).mT
    wide = _wide(matrix)
    columns = wide.shape[-1]
    upper, lower = wide[..., :columns, :], wide[..., columns:, :]
    eye = torch.eye(columns, dtype=wide.dtype, device=wide.device)
    skew = upper - upper.mH + lower.mH @ lower
    found: Tensor = torch.linalg.solve(eye + skew, torch.cat([eye - skew, -2 * lower], dim=-2), left=False)
    return found


def cholesky_orthogonal(matrix: Tensor) -> Tensor:
    """Return L^-1 V for V = ``matrix`` (..., m, n), where L L^H = V V^H: rows that span the same, orthonormal.

    Hu, Leino, Wang, Fredrikson, "A recipe for improved certifiable robustness", ICLR 2024. Where m > n it is
    that of the transpose, transposed.

    Returns:
        float64 or complex128.

    Raises:
        torch.linalg.LinAlgError: ``matrix`` has not full rank, as of zeros.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return cholesky_orthogonal(matrix.mT).mT
    wide = _wide(matrix)
    found: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(wide @ wide.mH), wide, upper=False)
    return found


def block_reflector(matrix: Tensor) -> Tensor:
    """Return I - 2 V (V^H V)^-1 V^H (..., m, m) for V = ``matrix`` (..., m, r): the reflection of the span of V.

    Lai, Huang, Kung, Chen, "Enhancing certified robustness via block reflector orthogonal layers and logit annealing
    loss", ICML 2025.

    Returns:
        float64 or complex128.

    Raises:
        torch.linalg.LinAlgError: ``matrix`` has not rank r.
    """
    rows = cholesky_orthogonal(matrix.mH)
    eye = torch.eye(matrix.shape[-2], dtype=rows.dtype, device=rows.device)
    return eye - 2 * rows.mH @ rows


def _wide(matrix: Tensor) -> Tensor:
    return matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
