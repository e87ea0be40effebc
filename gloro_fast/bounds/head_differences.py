"""Upper bounds on the Lipschitz constants of f_j - f_i as functions of the last layer's input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.rounding import SMALLEST, UNIT_ROUNDOFF, positive_up, up

# Below this a distance may have lost squares to underflow (smallest normal float64: 2.2e-308).
_SAFE_DISTANCE = 1e-140
_SAFE_PRODUCT = 1e-200
_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Rows of the result that are mirrored at once.
_TILE = 512


def head_difference_bounds(weight: Tensor) -> Tensor:
    """Give float64 numbers >= ||w_i - w_j||_2; see :func:`head_difference_bounds_reference`.

    On a GPU one Triton launch, which needs no memory beside the result. It adds squares in another order, so that the
    bits may differ in their last places; the derivation holds for both.
    """
    if weight.is_cuda and dispatch.runs("head_difference_bounds"):
        bounds: Tensor = torch.ops.gloro_fast.head_difference_bounds(weight.detach())
        return bounds
    return head_difference_bounds_reference(weight)


def head_difference_bounds_reference(weight: Tensor) -> Tensor:
    """Give float64 numbers >= ||w_i - w_j||_2, the rows taken as the real numbers they are, in plain PyTorch.

    Derivation, with u = 2^-53: each difference is computed within a factor 1 + u (subtraction never underflows
    with gradual underflow), its square within (1 + u)^3, the sum of d of them, in any order, within
    (1 + u)^(d + 2), the root within (1 + u)^(d/2 + 2). The result is enlarged by 1 + 2 (d + 8) u, which is more.
    Where squares may have underflowed, sqrt(d) * max_k |w_ik - w_jk| is used, enlarged likewise. A processor
    that flushes subnormals to zero changes each entry by less than the smallest normal number s of its type (of
    float32 for half types), each difference by less than 3 s: sqrt(d) * 4 s is added. Rows of equal bits give 0.

    It takes half as much memory again as the result.

    Args:
        weight: (m, d) of any floating dtype.

    Returns:
        (m, m) float64 on the weight's device, symmetric, zero on the diagonal; inf or NaN where the weight holds them,
        and inf where squares overflow.
    """
    rows = weight.detach().double()
    bits = weight.detach().contiguous().view(_INTEGER_OF_SIZE[weight.itemsize])
    count, width = rows.shape
    enlarge = 1 + 2 * (width + 8) * UNIT_ROUNDOFF
    smallest = torch.finfo(torch.promote_types(weight.dtype, torch.float32)).tiny
    flushed = width**0.5 * 4 * smallest
    bounds = rows.new_zeros(count, count)
    # Row after row of the upper triangle, by differences: products w_i . w_j would cancel.
    pairs = torch.nn.functional.pdist(rows)
    some_near = bool((pairs < _SAFE_DISTANCE).any())
    for index, distance in enumerate(torch.split(pairs, list(range(count - 1, 0, -1)))):
        bound = positive_up(distance * enlarge + flushed)
        if some_near:
            near = (distance < _SAFE_DISTANCE).nonzero()[:, 0]
            others = near + index + 1
            fallback = (rows[others] - rows[index]).abs().amax(dim=1) * width**0.5
            differ = (bits[others] != bits[index]).any(dim=1)
            bound[near] = torch.where(differ, positive_up(fallback * enlarge + flushed), 0.0)
        bounds[index, index + 1 :] = bound
    for start in range(0, count, _TILE):
        stop = start + _TILE
        bounds[start:stop, start:stop] += bounds[start:stop, start:stop].mT.clone()
        bounds[stop:, start:stop] = bounds[start:stop, stop:].mT
    return bounds


def scaled_difference_bounds(weight: Tensor, factors: Sequence[Tensor], signed: bool) -> Tensor:
    """Give float64 numbers >= ||a_i - a_j||_2 of the rows a_i = w_i times all factors, or of both signs of them.

    Derivation: a factor is within a relative 2^-50 of its real value, so that each entry of a_i, a product of k factors
    and the weight, is computed within (1 + 2^-50)^(2 k + 1), which is within (k + 1) 2^-48 of 1. An entry that
    underflows, or a weight that a processor flushes to zero, changes it by less than 2 s |product of factors| and 2
    2^-1022, s the smallest normal number of the weight's type. Distances of the rows as computed are bounded as by
    :func:`head_difference_bounds`, and what may have changed in each of both rows is added. Products of factors
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
    """Give float64 numbers >= ||e_i - e_j||_2 = sqrt(2), for a net that ends in no dense layer: K holds all of it.

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


# What follows tells torch of the kernel for GPUs.


def _fake_head_difference_bounds(weight: Tensor) -> Tensor:
    return weight.new_empty([weight.shape[0], weight.shape[0]], dtype=torch.float64)


if extension.available():
    torch.library.define("gloro_fast::head_difference_bounds", "(Tensor weight) -> Tensor")
    torch.library.register_fake("gloro_fast::head_difference_bounds", _fake_head_difference_bounds)
    dispatch.implement("head_difference_bounds", "head_difference_bounds")
