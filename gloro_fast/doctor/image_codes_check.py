"""Doubts about images: every pixel is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.image_codes import image_codes, image_codes_reference

_SPECIAL = (0.0, 1.0, -0.5, 1.5, torch.inf, -torch.inf, torch.nan)


@check("image_codes")
def check_image_codes(device: torch.device) -> Iterator[str | None]:
    """Yield for each shape and type whether one odd pixel an image, at any place, is found."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((50, 1, 28, 28), (20, 3, 33, 35), (14, 5)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            images = torch.rand(shape, generator=generator).to(dtype)
            pixels = images.view(len(images), -1)
            place = torch.randint(pixels.shape[1], (len(images),), generator=generator)
            place[:7], place[-7:] = 0, pixels.shape[1] - 1
            odd = torch.tensor(_SPECIAL, dtype=dtype)[torch.arange(len(images)) % len(_SPECIAL)]
            pixels[torch.arange(len(images)), place] = odd
            name = f"{shape} of {str(dtype).removeprefix('torch.')}"
            yield difference(name, image_codes(images.to(device)), image_codes_reference(images))
