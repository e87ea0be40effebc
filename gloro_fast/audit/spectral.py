"""Proofs that a matrix has no larger norm than a number: exact for small ones, by a factorisation and its residual."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from gloro_fast.audit.layers import Array

UNIT = 2.0**-53
EXACT_SIDE = 48
"""Sides up to which the proof is in rational numbers: a second."""
LARGEST_WORK = 2e12
"""Multiplications up to which a factorisation is tried: minutes."""
_SMALLEST_BLOCK = 256
# How much below bound^2 the factorised matrix begins: slack for its rounding, coarse first since that does most often.
_SLACKS = (1e-7, 1e-9, 1e-11, 1e-13)
# What underflows in sums of products of entries below 1 is less.
_UNDERFLOW = Fraction(2) ** -900
_SMALL_SIDE = 640
_QUOTIENTS = 500


def proves(matrix: sparse.csr_array, bound: float) -> bool | None:
    """Say whether ||matrix||_2 <= bound is proven, for the real numbers that the entries are.

    That is so exactly if bound^2 I - M^T M is positive semidefinite, for M the matrix or its transpose.

    Args:
        matrix: (m, n) float64.
        bound: the number.

    Returns:
        True if it is proven, False if it is refuted or cannot be shown with so little slack, None if the matrix is
        too large to try.
    """
    if not bound >= 0:
        return False
    if bound == math.inf:
        return True
    if not np.isfinite(matrix.data).all():
        return False
    largest = float(abs(matrix).max()) if matrix.nnz else 0.0
    if largest == 0.0:
        return True
    if bound < largest:
        return False
    # By a power of two, so that nothing is rounded and squares neither over- nor underflow.
    exponent = math.frexp(largest)[1]
    scaled = matrix.copy()
    scaled.data = np.ldexp(matrix.data, -exponent)
    if min(matrix.shape) <= EXACT_SIDE:
        return _proves_exactly(scaled.toarray(), Fraction(bound) / Fraction(2) ** exponent)
    return _proves_by_factors(scaled, math.ldexp(bound, -exponent))


def proves_nonnegative(matrix: sparse.csr_array, bound: float) -> bool:
    """Say whether ||matrix||_2 <= bound is proven for a matrix without negative entries, however large.

    By a factorisation where a side is small, else by Collatz's quotients: for every v > 0,
    ||M||^2 <= max_k (M^T M v)_k / v_k, here with sums of N entries in all, each within (1 + u)^(N + 2).
    """
    if min(matrix.shape) <= _SMALL_SIDE:
        return proves(matrix, bound) is True
    largest = float(matrix.max())
    scaled, transposed = matrix / largest, sparse.csr_array(matrix.T / largest)
    v = np.ones(matrix.shape[1])
    wider = 1 + 8 * (int(np.diff(matrix.indptr).max()) + int(np.diff(transposed.indptr).max()) + 8) * UNIT
    for _ in range(_QUOTIENTS):
        image = transposed @ (scaled @ v)
        if math.sqrt(float((image / v).max())) * largest * wider <= bound:
            return True
        v = np.maximum(image / image.max(), 1e-9)
    return False


def _proves_exactly(matrix: Array, bound: Fraction) -> bool:
    """Eliminate in integers (Bareiss 1968).

    The matrix is positive semidefinite iff no pivot is negative and the row of every pivot that is 0 is 0.
    """
    wide = matrix if matrix.shape[1] <= matrix.shape[0] else matrix.T
    denominator = max(2 ** max(0, -math.frexp(abs(value))[1] + 53) for value in wide.ravel() if value)
    whole = np.vectorize(lambda value: int(Fraction(value) * denominator), otypes=[object])(wide)
    square = bound**2 * denominator**2
    gram = -(whole.T @ whole) * square.denominator
    side = len(gram)
    for index in range(side):
        gram[index, index] += square.numerator
    last = 1
    for index in range(side):
        pivot = gram[index, index]
        if pivot < 0 or (pivot == 0 and any(gram[index, index:])):
            return False
        if pivot == 0:
            continue
        rest = slice(index + 1, side)
        column = gram[rest, index]
        gram[rest, rest] = (gram[rest, rest] * pivot - np.multiply.outer(column, column)) // last
        last = pivot
    return True


def _proves_by_factors(matrix: sparse.csr_array, bound: float) -> bool | None:
    """Factorise A = s I - M^T M, s below bound^2, as L L^T in blocks, and bound what is left over.

    L L^T is positive semidefinite whatever L is, so that M^T M = s I - L L^T - R - E gives
    ||M||^2 <= s + ||R + E||, with R = A - L L^T and E the rounding of A, of R and of M^T M. Their rows of absolute
    values are summed: the largest sum bounds the norm. How L was computed does not matter.
    """
    if min(matrix.shape) <= _SMALL_SIDE:
        gram, error, band = _full(matrix)
    else:
        choices = [_banded(sparse.csr_array(m)) for m in (matrix, matrix.T)]
        gram, error, band = min(choices, key=lambda choice: choice[0].shape[0] * max(choice[2], _SMALLEST_BLOCK) ** 2)
    if float(gram.shape[0]) * max(band, _SMALLEST_BLOCK) ** 2 > LARGEST_WORK:
        return None
    for slack in _SLACKS:
        start = bound * bound * (1 - slack)
        left = _left_over(gram, start, max(band, _SMALLEST_BLOCK))
        if left is None:
            # Not positive definite: less slack may do.
            continue
        if Fraction(start) + Fraction(left) + Fraction(error) + _UNDERFLOW <= Fraction(bound) ** 2:
            return True
    return False


def _full(matrix: sparse.csr_array) -> tuple[sparse.csr_array, float, int]:
    """Return the smaller of M^T M and M M^T, a bound on the norm of its error, and its side."""
    wide = matrix.toarray() if matrix.shape[0] <= matrix.shape[1] else matrix.toarray().T
    gram, rest, error = _product(wide, wide)
    rows = error + np.abs(rest).sum(axis=1)
    return sparse.csr_array(gram), float(rows.max()) * (1 + 1e-9), len(gram)


def _banded(matrix: sparse.csr_array) -> tuple[sparse.csr_array, float, int]:
    """Return M^T M in an order in which it is near its diagonal, a bound on the error of that product, and its band.

    A sum of t products is off by at most gamma_{t+1} |M|^T |M|, whose norm is at most its largest row sum.
    """
    gram = sparse.csr_array(matrix.T @ matrix)
    order = sparse.csgraph.reverse_cuthill_mckee(gram, symmetric_mode=True)
    gram = sparse.csr_array(gram[order][:, order])
    places = gram.tocoo()
    band = int(abs(places.coords[0] - places.coords[1]).max(initial=0)) + 1
    sizes = abs(matrix)
    terms = int(np.diff(sparse.csc_array(matrix).indptr).max())
    rows = sizes.T @ (sizes @ np.ones(matrix.shape[1]))
    # Twice: once for the rounding of this bound.
    return gram, 2 * (terms + 2) * UNIT * float(rows.max()), band


def _left_over(gram: sparse.csr_array, start: float, block: int) -> float | None:
    """Factorise start I - gram, zero beyond ``block`` from the diagonal, and bound the norm of what is left over.

    Returns:
        None where it is not positive definite.
    """
    side = gram.shape[0]
    sums: NDArray[np.float64] = np.zeros(side)
    below: Array | None = None
    for first in range(0, side, block):
        here = slice(first, min(first + block, side))
        after = slice(here.stop, min(here.stop + block, side))
        diagonal = start * np.eye(here.stop - first) - gram[here, here].toarray()
        schur = diagonal if below is None else diagonal - below @ below.T
        try:
            factor = np.linalg.cholesky(schur)
        except np.linalg.LinAlgError:
            return None
        parts = [factor] if below is None else [factor, below]
        sums[here] += _residual_rows(diagonal, parts, parts)
        # start - gram was rounded once.
        sums[here] += 2 * UNIT * np.abs(diagonal.diagonal())
        below = None
        if after.stop > after.start:
            beside = -gram[after, here].toarray()
            below = linalg.solve_triangular(factor, beside.T, lower=True).T
            sums[after] += _residual_rows(beside, [below], [factor])
            sums[here] += _residual_rows(beside.T, [factor], [below])
    return float(sums.max()) * (1 + 1e-9)


def _residual_rows(target: Array, left: list[Array], right: list[Array]) -> Array:
    """Bound the row sums of |target - sum of left @ right^T|, the rounding of that difference included."""
    remaining, rows = target, np.zeros(len(target))
    for a, b in zip(left, right, strict=True):
        product, rest, error = _product(a, b)
        before = remaining
        remaining = before - product
        # The difference is rounded once, as is that with the rest.
        rows += error + 2 * UNIT * (np.abs(before) + np.abs(product) + np.abs(rest)).sum(axis=1)
        remaining = remaining - rest
    rows += np.abs(remaining).sum(axis=1)
    bounded: Array = rows * (1 + 4 * (target.shape[1] + 4) * UNIT)
    return bounded


def _product(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return a b^T as the sum of two matrices, and bounds on the row sums of what it is off.

    Beyond side 640 that is the rounded product, off by at most gamma_{n+1} |a| |b|^T for sums of n products. Up to
    there each factor is cut into two slices of so few bits that the products of slices add up without any rounding
    (Ozaki et al. 2012), and a rest, some 2^-40 of the factor, whose products are rounded. The sums are added up with
    what each addition loses (Knuth's exact sum of two).
    """
    length = a.shape[1]
    size = np.abs(a) @ np.abs(b).sum(axis=0)
    wider = 1 + 4 * (length + len(b)) * UNIT
    if length > _SMALL_SIDE and len(a) > _SMALL_SIDE:
        return a @ b.T, np.zeros((len(a), len(b))), 2 * (length + 2) * UNIT * size * wider
    bits = (52 - max(1, length - 1).bit_length()) // 2
    first, second = _slices(a, bits), _slices(b, bits)
    total = np.zeros((len(a), len(b)))
    lost = np.zeros_like(total)
    rest_a, rest_b = a - first[0] - first[1], b - second[0] - second[1]
    exact = [one @ other.T for one in first for other in second]
    for part in (*exact, rest_a @ b.T, (first[0] + first[1]) @ rest_b.T):
        added = total + part
        was = added - total
        lost += (total - (added - was)) + (part - was)
        total = added
    rounded = np.abs(rest_a) @ np.abs(b).sum(axis=0) + np.abs(a) @ np.abs(rest_b).sum(axis=0)
    # What six additions lose is at most 6 u of the absolute values, and is itself rounded six times.
    error = 2 * (length + 4) * UNIT * rounded + 100 * UNIT**2 * size
    return total, lost, error * wider


def _slices(x: Array, bits: int) -> tuple[Array, Array]:
    """Cut off the leading bits of all numbers, twice, each time counted from the largest."""
    slices = []
    for _ in range(2):
        largest = float(np.abs(x).max(initial=0.0))
        # Adding 1.5 * 2^52 units rounds to a whole number of units.
        shift = 1.5 * math.ldexp(1.0, math.frexp(largest)[1] + 52 - bits) if largest else 0.0
        slices.append((x + shift) - shift)
        x = x - slices[-1]
    return slices[0], slices[1]
