"""Vectors of unit norm, and what becomes of the zero vector."""

from __future__ import annotations

import torch
from torch import Tensor


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
