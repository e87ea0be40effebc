"""What is doubtful about images, on the GPU: what ``gloro_fast.ops.image_codes`` defines, as a Triton kernel."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloro_fast.ops.image_codes import NOT_FINITE, OUTSIDE

from .float32_math import INFINITY
from .launch_table import on_device_of

_BLOCK = 2048
_WARPS = 4
_OUTSIDE = tl.constexpr(OUTSIDE)
_NOT_FINITE = tl.constexpr(NOT_FINITE)


@triton.jit
def _both(a, b):
    return a | b


@triton.jit
def look_at_images(images, step, pixels, codes, BLOCK: tl.constexpr):
    """Look at one image, which is a run of memory whatever the order of its pixels."""
    row = tl.program_id(0).to(tl.int64)
    code = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, pixels, BLOCK):
        place = first + tl.arange(0, BLOCK)
        value = tl.load(images + row * step + place, place < pixels, 0)
        if images.dtype.element_ty != tl.float64:
            value = value.to(tl.float32)
        code |= tl.where((value < 0) | (value > 1), _OUTSIDE, 0)
        code |= tl.where(tl.abs(value) < INFINITY, 0, _NOT_FINITE)
    tl.store(codes + row, tl.reduce(code, 0, _both).to(tl.uint8))


def image_codes(images: Tensor) -> Tensor:
    """Return a code an image: the CUDA implementation of the op ``gloro_fast::image_codes``."""
    if images.dim() < 1 or not images.is_floating_point():
        raise RuntimeError(f"image_codes: expected a batch of floats, got {images.dtype} {tuple(images.shape)}")
    if not (images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)):
        images = images.contiguous()
    pixels = math.prod(images.shape[1:])
    codes = images.new_empty(len(images), dtype=torch.uint8)
    if len(images):
        with on_device_of(images):
            look_at_images[(len(images),)](images, pixels, pixels, codes, BLOCK=_BLOCK, num_warps=_WARPS)
    return codes
