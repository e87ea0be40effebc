"""How far a Cholesky factor is from its matrix, in norms rounded up."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.rounding import gamma, norm_up

# Pieces that products with a triangular matrix are formed in, so that no more than a sixteenth is for nothing.
_PIECES = 8
# Narrower pieces take as long.
_NARROWEST = 64


def pieces(columns: int) -> list[tuple[int, int]]:
    """Split columns into a few pieces (start, stop)."""
    width = max(_NARROWEST, -(-columns // _PIECES))
    return [(start, min(start + width, columns)) for start in range(0, columns, width)]


def subtract_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Take (B, n, k) x (B, k, m) off ``target``, (B, n, m), in place."""
    if len(target) == 1:
        # Where it lies within a larger matrix, baddbmm_ would go through a copy.
        target[0].addmm_(left[0], right[0], alpha=-1)
    else:
        target.baddbmm_(left, right, alpha=-1)


def residual_norm(stored: Tensor, factor: Tensor) -> float:
    """Return a float >= the Frobenius norms of what is computed for stored - F L^H, but for what is above the diagonal.

    F is the factor, (B, rows, columns), and L its first ``columns`` rows, lower triangular. Each number is a sum of at
    most 2 columns + 1 terms, columns + 1 if it is real. The imaginary parts on the diagonal are left out.

    Args:
        stored: (B, rows, at least columns) float64 or complex128.
        factor: of the same type.

    Returns:
        inf for NaN. What underflows is left to the caller.
    """
    real = factor.real.contiguous() if factor.is_complex() else factor
    imag = factor.imag.contiguous() if factor.is_complex() else None
    squares = real.new_zeros(len(factor))
    split = pieces(factor.shape[-1])
    for start, stop in split:
        # Of rows `start` and on: what these columns multiply, where L is not zero.
        below, beside = (slice(None), slice(start, None), slice(stop)), (slice(None), slice(start, stop), slice(stop))
        part = stored[:, start:, start:stop]
        rest = torch.baddbmm(part.real, real[below], real[beside].mT, alpha=-1)
        if imag is not None:
            rest.baddbmm_(imag[below], imag[beside].mT, alpha=-1)
            across = torch.baddbmm(part.imag, imag[below], real[beside].mT, alpha=-1)
            across.baddbmm_(real[below], imag[beside].mT)
            squares += norm_up(across.tril_(-1), 2).square()
        squares += norm_up(rest.tril_(), 2).square()
    # Sums of two numbers a piece, the rounding of squares and root.
    largest = float(squares.max().sqrt()) * (1 + gamma(4 * len(split) + 8))
    return largest if largest < float("inf") else float("inf")


def largest_norm(matrices: Tensor) -> float:
    """Return a float >= the Frobenius norms of (B, rows, columns), 0 of none; inf for NaN. Underflow is left out."""
    if not matrices.numel():
        return 0.0
    parts = torch.view_as_real(matrices).flatten(2) if matrices.is_complex() else matrices
    largest = float(norm_up(parts, 2).max())
    return largest if largest < float("inf") else float("inf")
