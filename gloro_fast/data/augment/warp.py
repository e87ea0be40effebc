"""Resample a batch of images, each by its own affine map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Give each image the pixels that its map points to: bilinear, the border repeated outside.

    Args:
        images: (B, C, H, W), floating.
        maps: (B, 2, 3) float64 on the CPU: [row_in, col_in] = map @ [row_out, col_out, 1], where rows and
            columns are in pixels and counted from the centre of the image.

    Returns:
        As ``images``. Every pixel lies in the range of its own image.
    """
    height, width = images.shape[-2:]
    return resample(images, sampling(maps, height, width).to(images.device, images.dtype))


def sampling(maps: Tensor, height: int, width: int) -> Tensor:
    """Give ``maps`` of images of ``height`` x ``width`` in the units of ``torch.nn.functional.affine_grid``.

    Returns:
        (B, 2, 3) float64 on the CPU.
    """
    # grid_sample's coordinates are (x, y) and reach from -1 to 1 over the image, whatever its sides.
    half_sides = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    linear = maps[:, :, :2].flip(1, 2) * half_sides / half_sides[:, None]
    offset = maps[:, :, 2].flip(1) / half_sides
    return torch.cat((linear, offset[:, :, None]), dim=2)


def resample(images: Tensor, theta: Tensor) -> Tensor:
    """Do so by maps as :func:`sampling` gives them, (B, 2, 3) of the dtype and device of ``images``."""
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # The four weights of a pixel may sum to a rounding more than 1.
    flat = images.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    return warped.clamp(low[:, None, None, None], high[:, None, None, None])
