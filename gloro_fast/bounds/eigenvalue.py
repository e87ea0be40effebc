"""Verify a bound on the largest eigenvalue of Hermitian matrices by Cholesky factorisations that are measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gloro_fast.bounds.lanczos import largest_ritz_values
from gloro_fast.bounds.residual import largest_norm, residual_norm
from gloro_fast.rounding import add_up, gamma


def largest_eigenvalue(matrices: Tensor, excess: float, floor: float = 0.0, ceiling: float = math.inf) -> float:
    """Return a float >= the largest eigenvalue of B Hermitian matrices and ``floor``; inf where it fails.

    For any number s and any matrix L,

        s I - A = L L^H + E   =>   A <= s + ||E||.

    Nothing is asked of L, so that it does not matter how a library factorises. s is a little above an estimate of the
    largest eigenvalue, or ``floor`` first; where it is too small for a matrix, its factorisation fails, and a larger
    one is tried for it.

    What the program takes for E is M. With L = P + iQ, the real part of an entry of E is a sum of s, one of A and 2n
    products of P and Q, and so is the imaginary part. So with g = gamma_(2n+2), in any order of summation, M is off by
    at most g (s I + |Re A| + |Im A| + (|P| + |Q|) (|P| + |Q|)^T), entry by entry, and in norm by

        g (s + 2 ||A||_F + 2 ||L||_F^2).

    Only the lower triangles of A and M are read, and M's imaginary part below its diagonal: ||M|| is at most twice the
    Frobenius norm of that. What underflows is less than the additions, rounded up, give.

    Args:
        matrices: (B, n, n) float64 or complex128, with entries from 2^-300 to 2^100 where it matters. Each stands for
            the Hermitian matrix of its lower triangle, the imaginary part of the diagonal being 0.
        excess: how far above the estimate to verify first, relatively; it is also how near that has to come.
        floor: what the caller takes the maximum with: eigenvalues below it need not be known.
        ceiling: where an eigenvalue is above this, give up and return inf.
    """
    if matrices.shape[-1] == 1:
        largest = max(float(matrices.real.max()), floor)
        return largest if largest <= ceiling else math.inf
    if not floor < math.inf:
        return math.inf
    # A factorisation at the floor is needed in any case, and most matrices need no estimate then.
    found, left = _verify(matrices, floor) if floor > 0 else (0.0, matrices)
    found, attempt = max(found, floor), 0
    estimate = float(largest_ritz_values(left, 30 * excess, floor).max()) if len(left) else 0.0
    while len(left) and excess < 1.0 and estimate <= ceiling:
        # Not of a zero estimate: what is no more than rounding needs some bound that is not.
        bound, left = _verify(left, max(estimate * (1 + excess), floor, 2.0**-300))
        found = max(found, bound)
        if len(left):
            # The largest value hid from the first start, or is nearer to others than the tolerance.
            attempt += 1
            estimate = max(estimate, float(largest_ritz_values(left, excess / 100, floor, seed=attempt).max()))
            excess *= 2 if attempt == 1 else 16
    return math.inf if len(left) else found


def _verify(matrices: Tensor, shift: float) -> tuple[float, Tensor]:
    """Return a float >= s + ||E|| of the matrices that can be factorised, 0 of none, and the others."""
    shifted = -matrices
    shifted.diagonal(dim1=1, dim2=2).add_(shift)
    factor, info = torch.linalg.cholesky_ex(shifted)
    failed = info != 0
    if not bool(failed.any()):
        return _bound(shift, matrices, shifted, factor), matrices[:0]
    verified = ~failed
    return _bound(shift, matrices[verified], shifted[verified], factor[verified]), matrices[failed]


def _bound(shift: float, matrices: Tensor, shifted: Tensor, factor: Tensor) -> float:
    """Return a float >= s + ||E|| of all matrices, 0 of none."""
    if not len(matrices):
        return 0.0
    growth = gamma(2 * matrices.shape[-1] + 2)
    if growth > 0.5:
        return math.inf
    size, square = largest_norm(matrices), largest_norm(factor) ** 2 * (1 + 2.0**-50)
    unmeasured = growth * (1 + 2.0**-40) * add_up(shift, 2 * size, 2 * square)
    return add_up(shift, 2 * residual_norm(shifted, factor), unmeasured)
