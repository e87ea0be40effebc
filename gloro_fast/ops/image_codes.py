"""What is doubtful about the pixels of each image of a batch, found without waiting for its device."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension

OUTSIDE = 1
"""A pixel is outside [0, 1]."""
NOT_FINITE = 4
"""A pixel is NaN or infinite."""


def image_codes_reference(images: Tensor) -> Tensor:
    """Look at every pixel, in plain PyTorch.

    Args:
        images: (B, *any) of a floating dtype.

    Returns:
        (B,) uint8, ``OUTSIDE`` and ``NOT_FINITE`` added up; 0 where all pixels are in [0, 1].
    """
    pixels = images.detach().reshape(len(images), images[:1].numel())
    outside = ((pixels < 0) | (pixels > 1)).any(dim=1)
    return (outside * OUTSIDE + ~pixels.isfinite().all(dim=1) * NOT_FINITE).to(torch.uint8)


def image_codes(images: Tensor) -> Tensor:
    """Return the codes: see :func:`image_codes_reference`; one Triton launch on the GPU."""
    if images.is_cuda and not torch.compiler.is_compiling() and dispatch.runs("image_codes"):
        codes: Tensor = torch.ops.gloro_fast.image_codes(images.detach())
        return codes
    return image_codes_reference(images)


def _fake_image_codes(images: Tensor) -> Tensor:
    codes: Tensor = images.new_empty([len(images)], dtype=torch.uint8)
    return codes


if extension.available():
    torch.library.define("gloro_fast::image_codes", "(Tensor images) -> Tensor")
    torch.library.register_fake("gloro_fast::image_codes", _fake_image_codes)
    dispatch.implement("image_codes", "image_codes")
