"""Decode image files into one uint8 tensor: one size, all grey or all colour, nothing lost silently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gloro_fast.data.causes import cause
from gloro_fast.errors import DataError
from gloro_fast.progress import tracked

GREY = ("1", "L", "LA")
_EIGHT_BIT = (*GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def read(paths: Sequence[Path], *, colour: bool = False) -> Tensor:
    """Decode ``paths`` in their order.

    Args:
        paths: files of any format that Pillow reads, 8 bits a channel, all of one size.
        colour: give three channels even where all images are grey.

    Returns:
        uint8 (N, C, H, W): C is 1 where all are grey and ``colour`` is False, else 3.

    Raises:
        DataError: a file is missing, damaged, of another size than the first, transparent, or of more than 8
            bits a channel; names the file.
    """
    headers = [_header(path) for path in tracked(paths, len(paths), "looking at image files")]
    width, height = headers[0][0]
    for path, (size, _) in zip(paths, headers, strict=True):
        if size != (width, height):
            raise DataError(
                f"{path} is {size[0]} x {size[1]} pixels but {paths[0]} is {width} x {height}; make all images one size"
            )
    mode = "RGB" if colour or any(mode not in GREY for _, mode in headers) else "L"
    # Filled in place: a list of arrays and their stack would need the memory twice.
    stacked = np.empty((len(paths), 3 if mode == "RGB" else 1, height, width), dtype=np.uint8)
    # No threads: they halve the speed on images this small.
    for position, path in enumerate(tracked(paths, len(paths), "reading images")):
        image = _pixels(path, mode)
        stacked[position] = image.transpose(2, 0, 1) if mode == "RGB" else image
    return torch.from_numpy(stacked)


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """Return (width, height) and Pillow's mode, without decoding the pixels."""
    try:
        with Image.open(path) as image:
            return image.size, image.mode
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to.
        raise _unreadable(path, error) from error


def pixels(image: Image.Image, mode: str, what: object) -> NDArray[np.uint8]:
    """Decode ``image`` as ``mode``.

    Args:
        image: 8 bits a channel.
        mode: "L" or "RGB".
        what: what to call it in messages, its path for example.

    Returns:
        uint8 (H, W) or (H, W, 3).

    Raises:
        DataError: it is damaged, transparent, or of more than 8 bits a channel.
    """
    try:
        image.load()
        if image.mode not in _EIGHT_BIT:
            raise DataError(f"{what} has pixels of kind {image.mode}, not 8 bits a channel; convert it")
        may_be_transparent = "A" in image.getbands() or "transparency" in image.info
        if may_be_transparent and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
            raise DataError(f"{what} has transparent pixels; flatten it onto a background")
        return np.asarray(image.convert(mode), dtype=np.uint8)
    except DataError:
        raise
    except Exception as error:  # as above
        raise _unreadable(what, error) from error


def _pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        opened = Image.open(path)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    with opened as image:
        return pixels(image, mode, path)


def _unreadable(path: object, error: Exception) -> DataError:
    return DataError(f"{path} is not an image that can be read ({cause(error)}); remove or replace it")
