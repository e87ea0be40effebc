"""Upper bounds on the distances between the rows of the last layer, which certificates rest on."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.native import dispatch
from gloro_fast.ops.registration import register
from gloro_fast.rounding import UNIT_ROUNDOFF, positive_up

# Below this a distance may have lost squares to underflow (smallest normal float64: 2.2e-308).
_SAFE_DISTANCE = 1e-140
_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Rows of the result that are mirrored at once.
_TILE = 512


def head_difference_bounds(weight: Tensor) -> Tensor:
    """Return float64 numbers >= ||w_i - w_j||_2; see :func:`head_difference_bounds_reference`.

    On a GPU one Triton launch, which needs no memory beside the result. It adds squares in another order, so that the
    bits may differ in their last places; the derivation holds for both.
    """
    if weight.is_cuda and dispatch.runs("head_difference_bounds"):
        bounds: Tensor = torch.ops.gloro_fast.head_difference_bounds(weight.detach())
        return bounds
    return head_difference_bounds_reference(weight)


def head_difference_bounds_reference(weight: Tensor) -> Tensor:
    """Return float64 numbers >= ||w_i - w_j||_2, the rows taken as the real numbers they are, in plain PyTorch.

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


# What follows tells torch of the kernel for GPUs.


def _fake_head_difference_bounds(weight: Tensor) -> Tensor:
    return weight.new_empty([weight.shape[0], weight.shape[0]], dtype=torch.float64)


register("head_difference_bounds", _fake_head_difference_bounds, "head_difference_bounds", "(Tensor weight) -> Tensor")
