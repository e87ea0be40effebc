"""The norm of a diagonal map: its largest entry."""

from __future__ import annotations

import math

import torch

from gloro_fast.bounds.layer import LayerBound
from gloro_fast.rounding import SMALLEST
from gloro_fast.rules.registry import Diagonal


@torch.no_grad()
def diagonal_bound(name: str, layer: Diagonal) -> LayerBound:
    """Return a float64 >= the spectral norm of a diagonal map, max |scale|, in real arithmetic.

    The scale's entries are within a relative 2^-50 of the real ones, which is added; one that underflowed is below
    the smallest normal number, which is what this gives at least. NaN and infinities give inf.

    Args:
        name: the layer's name, for the result.
        layer: its scale.
    """
    largest = float(layer.scale.abs().amax())
    value = max(math.nextafter(largest * (1 + 2.0**-49), math.inf), SMALLEST)
    return LayerBound(name, value if math.isfinite(value) else math.inf, "rule", "exact")
