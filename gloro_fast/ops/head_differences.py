"""Distances between the rows of the last layer: D_ij = ||w_i - w_j||_2 (Leino et al. 2021, Appendix A.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def head_differences_reference(weight: Tensor) -> Tensor:
    """Give D by direct differences, in plain PyTorch.

    Args:
        weight: (m, d) weights of the last layer.

    Returns:
        (m, m) symmetric, zero on the diagonal; at least float32. Its gradient at D_ij = 0 is 0.
    """
    weight = weight if weight.itemsize >= 4 else weight.float()
    squares = (weight[:, None] - weight[None]).square().sum(dim=2)
    distinct = squares > 0
    return torch.where(distinct, torch.where(distinct, squares, 1.0).sqrt(), 0.0)


def head_differences(weight: Tensor) -> Tensor:
    """Give D by direct differences without an (m, m, d) tensor; arguments as for the reference.

    The other mode of ``torch.cdist``, which it picks by itself above 25 rows, goes through w_i . w_j and loses
    all digits where rows are close.
    """
    weight = weight if weight.itemsize >= 4 else weight.float()
    return torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
