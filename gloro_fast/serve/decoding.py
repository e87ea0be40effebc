"""What clients send, as pixels: encoded images, arrays of numbers, lists of numbers. Never pickled objects.

Sizes are looked at before anything is decoded or allocated.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gloro_fast.errors import DataError
from gloro_fast.pixels import bytes_to_float

_FORMATS = ("PNG", "JPEG", "WEBP")
_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
_NPY = b"\x93NUMPY"
_DTYPES = ("u1", "f4", "f8")


def decode_one(body: bytes, input_shape: tuple[int, ...]) -> Tensor:
    """Return the pixels of one image.

    Args:
        body: a PNG, JPEG or WebP file; an ``.npy`` file of uint8, float32 or float64; or JSON, ``{"image": ...}`` with
            nested lists of numbers or the base64 text of such a file.
        input_shape: of the net's images, (C, H, W) for encoded ones.

    Returns:
        (1, *input_shape) float32 in [0, 1]; bytes are divided by 255.

    Raises:
        DataError: it is none of these, damaged, of another shape, or has pixels that are no numbers in [0, 1].
    """
    if not _is_json(body):
        return _file(body, input_shape)
    return _listed(_entry(body, "image"), input_shape)


def decode_many(body: bytes, input_shape: tuple[int, ...], limit: int) -> Tensor:
    """Return the pixels of several images, likewise.

    Args:
        body: an ``.npy`` file of shape (B, *input_shape), or JSON, ``{"images": [...]}`` of what ``decode_one`` takes.
        input_shape: of the net's images.
        limit: how many there may be.

    Returns:
        (B, *input_shape) float32 in [0, 1].

    Raises:
        DataError: as for :func:`decode_one`, or too many or no images.
    """
    if body.startswith(_NPY):
        return _array(body, input_shape, limit)
    if not _is_json(body):
        raise DataError("a batch is JSON with the entry images, or an .npy file; send single files to /certify")
    images = _entry(body, "images")
    if not isinstance(images, list) or not 1 <= len(images) <= limit:
        count = len(images) if isinstance(images, list) else "no list"
        raise DataError(f"images holds {count}; send 1 to {limit} images at a time")
    decoded = []
    for index, image in enumerate(images):
        try:
            decoded.append(_listed(image, input_shape))
        except DataError as error:
            raise DataError(f"image {index}: {error}") from None
    return torch.cat(decoded)


def _is_json(body: bytes) -> bool:
    return body[:64].lstrip()[:1] == b"{"


def _entry(body: bytes, name: str) -> Any:
    try:
        content = json.loads(body)
    # Too deep a nesting is a RecursionError, a number of too many digits a ValueError.
    except (ValueError, RecursionError):
        raise DataError("the body is no JSON that can be read; send UTF-8") from None
    if not isinstance(content, dict) or name not in content:
        raise DataError(f"the JSON has no entry {name}; send {{{json.dumps(name)}: ...}}")
    return content[name]


def _listed(image: Any, input_shape: tuple[int, ...]) -> Tensor:
    if isinstance(image, str):
        try:
            return _file(base64.b64decode(image, validate=True), input_shape)
        except (binascii.Error, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError("the text of an image is not base64") from None
    try:
        pixels = np.array(image)
    except (ValueError, RecursionError, OverflowError):
        raise DataError(f"the lists are not all of one length; send numbers of shape {_by(input_shape)}") from None
    if pixels.dtype.kind not in "iuf":
        raise DataError("the lists hold something that is no number; send floats in [0, 1]")
    return _checked(pixels[None], input_shape)


def _file(body: bytes, input_shape: tuple[int, ...]) -> Tensor:
    if body.startswith(_NPY):
        return _array(body, input_shape, 0)
    return _image(body, input_shape)


def _array(body: bytes, input_shape: tuple[int, ...], limit: int) -> Tensor:
    """Read an ``.npy`` file of one image if ``limit`` is 0, else of a batch, without ``numpy.load``: no pickle."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read(file)
    except Exception:  # The header is Python source, which fails in many ways.
        raise DataError("the .npy file has no header that can be read; write it with numpy.save") from None
    if dtype.str[1:] not in _DTYPES:
        raise DataError(f"the .npy file holds {dtype}; send uint8, float32 or float64")
    if limit and not (len(shape) == len(input_shape) + 1 and 1 <= shape[0] <= limit):
        raise DataError(f"the .npy file is of shape {_by(shape)}; send 1 to {limit} images of {_by(input_shape)}")
    if tuple(shape[-len(input_shape) :]) != input_shape or len(shape) != len(input_shape) + bool(limit):
        raise _other_shape(_by(shape), input_shape)
    content = body[file.tell() :]
    count = int(np.prod(shape))
    if len(content) != count * dtype.itemsize:
        raise DataError(
            f"the .npy file has {len(content):,} bytes of pixels, not {count * dtype.itemsize:,}: truncated?"
        )
    pixels = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return _checked(pixels if limit else pixels[None], input_shape)


def _checked(pixels: NDArray[Any], input_shape: tuple[int, ...]) -> Tensor:
    """Return pixels (B, ...) as float32, if they are of the right shape and in range."""
    if pixels.shape[1:] != input_shape:
        raise _other_shape(_by(pixels.shape[1:]), input_shape)
    if pixels.dtype == np.uint8:
        return bytes_to_float(torch.from_numpy(pixels.copy()))
    # NaN is in no range.
    if not ((pixels >= 0) & (pixels <= 1)).all():
        raise DataError("pixels are NaN or outside [0, 1]; divide bytes by 255")
    return torch.from_numpy(np.array(pixels, dtype=np.float32, order="C"))


def _image(body: bytes, input_shape: tuple[int, ...]) -> Tensor:
    """Decode an image file whose header says that it is of the right size."""
    try:
        with warnings.catch_warnings():
            # What Pillow takes for a decompression bomb is of another size than the net's, and refused for that.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body), formats=_FORMATS) as image:
                return _pixels(image, input_shape)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"the image has far too many pixels; the net takes {_by(input_shape)}") from None
    except Exception:  # Pillow's readers raise whatever a damaged file leads them to.
        raise DataError("the body is no PNG, JPEG or WebP image that can be read, .npy or JSON: truncated?") from None


def _pixels(image: Image.Image, input_shape: tuple[int, ...]) -> Tensor:
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise DataError(f"the net takes {_by(input_shape)}, which no image file has; send .npy or JSON")
    width, height = image.size
    # WebP knows no grey.
    grey = image.mode in _GREY or (image.format == "WEBP" and input_shape[0] == 1 and _is_grey(image, input_shape))
    if not grey and image.mode not in _COLOUR:
        raise DataError(f"the image has pixels of kind {image.mode}; send 8 bits a channel without transparency")
    if (channels := 1 if grey else 3) != input_shape[0] or (height, width) != input_shape[1:]:
        raise _other_shape(_by((channels, height, width)), input_shape)
    if "transparency" in image.info:
        raise DataError("the image has transparent pixels; flatten it onto a background")
    if getattr(image, "n_frames", 1) != 1:
        raise DataError("the image is an animation; send one frame")
    pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    return bytes_to_float(torch.from_numpy((pixels[None] if grey else pixels.transpose(2, 0, 1)).copy())[None])


def _is_grey(image: Image.Image, input_shape: tuple[int, ...]) -> bool:
    """Return whether an image in colour, of the right size, has three equal channels."""
    if image.mode != "RGB" or (image.height, image.width) != input_shape[1:]:
        return False
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())


def _other_shape(shape: str, input_shape: tuple[int, ...]) -> DataError:
    return DataError(f"the image is {shape} but the net takes {_by(input_shape)} (channels, height, width); resize it")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
