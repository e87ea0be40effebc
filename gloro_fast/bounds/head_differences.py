"""Upper bounds on the Lipschitz constants of f_j - f_i as functions of the last layer's input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gloro_fast.ops.head_difference_bounds_op import head_difference_bounds
from gloro_fast.rounding import SMALLEST, up

_SAFE_PRODUCT = 1e-200


def scaled_difference_bounds(weight: Tensor, factors: Sequence[Tensor], signed: bool) -> Tensor:
    """Return float64 numbers >= ||a_i - a_j||_2 of the rows a_i = w_i times all factors, or of both signs of them.

    Derivation: a factor is within a relative 2^-50 of its real value, so that each entry of a_i, a product of k factors
    and the weight, is computed within (1 + 2^-50)^(2 k + 1), which is within (k + 1) 2^-48 of 1. An entry that
    underflows, or a weight that a processor flushes to zero, changes it by less than 2 s |product of factors| and 2
    2^-1022, s the smallest normal number of the weight's type. Distances of the rows as computed are bounded as by
    :func:`.head_difference_bounds`, and what may have changed in each of both rows is added. Products of factors
    below 1e-200, which may have underflowed on the way, give inf. Factors that are all 1 change nothing.

    Args:
        weight: (m, d) of any floating dtype, the rows w_i.
        factors: each (m,) float64, within a relative 2^-50 of, or above, the real value.
        signed: whether it is known that row i is multiplied by these very factors; else by anything up to their
            absolute values, and the larger of ||a_i - a_j|| and ||a_i + a_j|| is bounded.

    Returns:
        (m, m) float64 on the weight's device, zero on the diagonal; inf or NaN where arguments hold them.
    """
    weight = weight.detach()
    count, width = weight.shape
    unchanged = all(bool((factor == 1).all()) for factor in factors)
    if unchanged and signed:
        return head_difference_bounds(weight)
    rows = weight
    if not unchanged:
        scale = torch.ones(count, dtype=torch.float64, device=weight.device)
        vanished = torch.zeros(count, dtype=torch.bool, device=weight.device)
        for factor in factors:
            scale = scale * factor
            vanished |= scale.abs() < _SAFE_PRODUCT
        for factor in factors:
            vanished &= factor != 0
        rows = weight.double() * scale[:, None]
    zero = torch.zeros_like(rows[:1])
    bounds = head_difference_bounds(torch.cat([rows, zero] if signed else [rows, zero, -rows]))
    distances = bounds[:count, :count]
    if not signed:
        distances = torch.maximum(distances, bounds[:count, count + 1 :])
    if not unchanged:
        smallest = torch.finfo(torch.promote_types(weight.dtype, torch.float32)).tiny
        change = up(bounds[:count, count] * ((len(factors) + 2) * 2.0**-48))
        change = up(change + width**0.5 * 4 * (smallest * scale.abs() + SMALLEST))
        distances = up(distances + up(change[:, None] + change))
        distances = distances.masked_fill(vanished[:, None] | vanished, math.inf)
    return distances.clone().fill_diagonal_(0.0)


def general_difference_bounds(classes: int, device: torch.device) -> Tensor:
    """Return float64 numbers >= ||e_i - e_j||_2 = sqrt(2), for a net that ends in no dense layer: K holds all of it.

    Args:
        classes: m.
        device: where the result is wanted.

    Returns:
        (m, m) float64, zero on the diagonal.
    """
    # sqrt is rounded correctly, so that the next float up is above the real root.
    root = math.nextafter(math.sqrt(2.0), 2.0)
    bounds = torch.full((classes, classes), root, dtype=torch.float64, device=device)
    return bounds.fill_diagonal_(0.0)
