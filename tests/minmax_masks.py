"""Reading the masks of MinMax, which every implementation packs in its own way."""

from __future__ import annotations

import torch
from torch import Tensor


def unpack_mask(mask: Tensor, x: Tensor) -> Tensor:
    """The mask that :func:`minmax` gave for ``x``, as bool of shape (B, C / 2, ...)."""
    samples, channels, *spatial = x.shape
    if mask.dtype == torch.bool:
        return mask
    bits = (
        (mask.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=mask.device)).bitwise_and(1).bool().flatten(-2)
    )
    length = x[0, 0].numel() if samples and channels else 0
    if mask.dim() == 2:  # a row of whole bytes per pair and sample
        return bits[:, :length].reshape(samples, channels // 2, *spatial)
    count = samples * length * (channels // 2)  # one run of bits, the pair index fastest
    return bits[:count].reshape(samples, *spatial, channels // 2).movedim(-1, 1)
