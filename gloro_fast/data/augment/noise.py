"""Gaussian noise, which randomized smoothing trains with (Cohen, Rosenfeld, Kolter 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_noise(
    images: Tensor, deviation: float, generator: torch.Generator, part: slice | None = None, count: int = 0
) -> Tensor:
    """Add independent normal noise to every pixel; the result is not clipped.

    Args:
        images: (B, C, H, W) of a floating dtype.
        deviation: standard deviation of the noise.
        generator: CPU generator, for images on the CPU; on another device torch's own generator of that device is used,
            since a captured step draws on the device.
        part: which rows of a batch ``images`` are, where others learn from the rest; each gets what it would get there.
        count: images of that batch.

    Returns:
        New images of the same shape, dtype, device and memory format.
    """
    on_cpu = images.device.type == "cpu"
    rows = len(images) if part is None else count
    noise = torch.randn((rows, *images.shape[1:]), generator=generator if on_cpu else None, device=images.device)
    noise = noise if part is None else noise[part]
    return torch.add(images, noise.to(images), alpha=deviation)
