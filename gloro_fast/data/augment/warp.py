"""Resample a batch of images, each by its own affine map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sampling(maps: Tensor, height: int, width: int) -> Tensor:
    """Return ``maps`` of images of ``height`` x ``width`` in the units of ``torch.nn.functional.affine_grid``.

    Args:
        maps: (B, 2, 3) float64 on the CPU: [row_in, col_in] = map @ [row_out, col_out, 1], where rows and
            columns are in pixels and counted from the centre of the image.
        height: in pixels.
        width: in pixels.

    Returns:
        (B, 2, 3) float64 on the CPU.
    """
    # grid_sample's coordinates are (x, y) and reach from -1 to 1 over the image, whatever its sides.
    half_sides = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    linear = maps[:, :, :2].flip(1, 2) * half_sides / half_sides[:, None]
    offset = maps[:, :, 2].flip(1) / half_sides
    return torch.cat((linear, offset[:, :, None]), dim=2)


def resample(images: Tensor, theta: Tensor) -> Tensor:
    """Return each image the pixels that its map points to: bilinear, the border repeated outside.

    Args:
        images: (B, C, H, W), floating.
        theta: (B, 2, 3) from :func:`sampling`, of the dtype and on the device of ``images``.

    Returns:
        As ``images``. Every pixel lies in the range of its own image.
    """
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # The four weights of a pixel may sum to a rounding more than 1.
    flat = images.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    return warped.clamp(low[:, None, None, None], high[:, None, None, None])
