"""Bound a matrix by the largest eigenvalue of its Gram matrix, which is formed in parts."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.bounds.eigenvalue import largest_eigenvalue
from gloro_fast.bounds.scaling import ScaledWeight
from gloro_fast.rounding import add_up, gamma, sqrt_up

# So many numbers of the weight are float64 at a time: 64 MB.
_PART = 1 << 23
# Rows of the Gram matrix that are formed at once: only what is left of its diagonal is.
_ROWS = 1024


def dense_norm(scaled: ScaledWeight, excess: float) -> float:
    """Return a float >= the spectral norm of a scaled matrix W; inf where it fails.

    ||W||^2 is the largest eigenvalue of H = W W^T, or of W^T W where that is smaller. It is at most that of the matrix
    as computed (:func:`gloro_fast.bounds.eigenvalue.largest_eigenvalue`) and the norm of the error of forming it. An
    entry is a sum of k products, in any order, so that this is at most gamma_k || |W| |W|^T || <= gamma_k ||W||_F^2.
    ||W||_F^2 is the trace of H, which the computed one gives within 1 + gamma_k, and its sum within 1 + gamma_n.

    It holds the smaller Gram matrix four times, and the weight in parts.

    Args:
        scaled: of a matrix (out, in).
        excess: how far above the estimate to verify first, relatively.
    """
    matrix = scaled.source if scaled.source.shape[0] <= scaled.source.shape[1] else scaled.source.mT
    order, terms = matrix.shape
    gram = _gram(scaled, matrix)
    error = float(gram.trace()) * gamma(terms) * (1 + 4 * gamma(terms + order))
    return sqrt_up(add_up(largest_eigenvalue(gram[None], 2 * excess), error))


def work(order: int, terms: int) -> float:
    """Return the multiplications and additions for a Gram matrix of ``order``, each entry a sum of ``terms``."""
    # Half of the products, and a factorisation of which a quarter more than L L^T is formed.
    return float(order) ** 2 * (terms + order * (1 / 3 + 1 / 2))


def _gram(scaled: ScaledWeight, matrix: Tensor) -> Tensor:
    """Form W W^T of a scaled part of the weight, symmetric: (n, n) float64."""
    order = len(matrix)
    gram = scaled.scaled(matrix[:1, :1]).new_zeros(order, order)
    for part in torch.split(matrix, max(1, _PART // order), dim=1):
        columns = scaled.scaled(part)
        for start in range(0, order, _ROWS):
            stop = start + _ROWS
            gram[start:stop, :stop].addmm_(columns[start:stop], columns[:stop].mT)
    for start in range(0, order, _ROWS):
        stop = start + _ROWS
        gram[start:stop, stop:] = gram[stop:, start:stop].mT
    return gram
