"""Images of a data set to stand in a page."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

from gloro_fast.data import to_float

_LARGEST = 64


def data_uri(image: Tensor) -> str:
    """Return an image as a PNG in a ``data:`` address, made smaller where a side is longer than 64 pixels.

    Args:
        image: (C, H, W) as a ``Split`` has it, uint8 or float in [0, 1]; what lies outside is clipped.
    """
    pixels = (to_float(image[None])[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
    picture.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
