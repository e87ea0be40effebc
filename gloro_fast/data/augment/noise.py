"""Gaussian noise, which randomized smoothing trains with (Cohen, Rosenfeld, Kolter 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add independent normal noise to every pixel; the result is not clipped.

    Args:
        images: (B, C, H, W) of a floating dtype.
        deviation: standard deviation of the noise.
        generator: CPU generator, for images on the CPU; on another device torch's own generator of that device is used,
            since a captured step draws on the device.

    Returns:
        New images of the same shape, dtype, device and memory format.
    """
    on_cpu = images.device.type == "cpu"
    noise = torch.randn(images.shape, generator=generator if on_cpu else None, device=images.device)
    return torch.add(images, noise.to(images), alpha=deviation)
