"""One element of a foreign data set, an image with its label or a batch of them, as tensors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gloro_fast.data.images import GREY, pixels
from gloro_fast.errors import DataError
from gloro_fast.pixels import check_floats

# As Hugging Face, WebDataset and Keras call them.
_IMAGES = ("image", "img", "images", "pixel_values", "x", "jpg", "jpeg", "png", "webp", "ppm", "npy", "jpg;png")
_LABELS = ("label", "labels", "cls", "target", "targets", "y", "fine_label")


def tensors(
    element: Any, what: str, *, keys: tuple[Any, Any] | None = None, channels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Turn an element of a data set into images and labels; bytes stay bytes.

    Args:
        element: (image, label), a mapping that has both, or a batch of either: images and as many labels. Images are
            Pillow's, encoded files as bytes, tensors or arrays: (H, W), (C, H, W) or (H, W, C), uint8 or floats in
            [0, 1]. Where both readings would have 1 or 3 channels, or neither, tensors have them first and arrays last.
        what: what to call it in messages.
        keys: which of the mapping's values, or places of the sequence, are image and label; None looks for usual names.
        channels: 1 or 3, what Pillow's images are converted to; None leaves grey images grey.

    Returns:
        (B, C, H, W), uint8 or float32, and (B,) int64; B is 1 where the element was no batch.

    Raises:
        DataError: it is none of these, or labels and images are not equally many.
    """
    image, label = _parts(element, what, keys)
    if isinstance(label, bytes | str) or np.ndim(label) == 0:
        images, labels = _image(image, what, channels)[None], _labels([label], what)
    else:
        labels = _labels(label, what)
        images = _batch(image, what, channels)
    if len(images) != len(labels):
        raise DataError(f"{what}: {len(images)} images but {len(labels)} labels; give one label an image")
    return images, labels


def key_of_label(names: Sequence[str]) -> str | None:
    """Return which of ``names`` is that of the label, if one is usual."""
    return next((name for name in _LABELS if name in names), None)


def _parts(element: Any, what: str, keys: tuple[Any, Any] | None) -> tuple[Any, Any]:
    if keys is not None:
        try:
            return element[keys[0]], element[keys[1]]
        except (KeyError, IndexError, TypeError):
            raise DataError(f"{what} has no {keys[0]!r} and {keys[1]!r}; it is {_describe(element)}") from None
    if isinstance(element, Mapping):
        image = next((name for name in _IMAGES if name in element), None)
        label = key_of_label(list(element))
        if image is not None and label is not None:
            return element[image], element[label]
    elif isinstance(element, tuple | list) and len(element) == 2:
        return element[0], element[1]
    raise DataError(f"{what} is {_describe(element)}, not an image and its label; say with keys=(IMAGE, LABEL) which")


def _describe(element: Any) -> str:
    if isinstance(element, Mapping):
        return f"a mapping with {', '.join(map(repr, element))}"
    if isinstance(element, tuple | list):
        return (
            f"a {type(element).__name__} of {len(element)} ({', '.join(type(part).__name__ for part in element[:4])})"
        )
    return f"a {type(element).__name__}"


def _labels(labels: Any, what: str) -> Tensor:
    try:
        found = torch.as_tensor([int(label) if isinstance(label, bytes | str) else label for label in labels])
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    if found.dim() != 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise DataError(f"{what}: the label is no class index (0, 1, ...); map it to one in the data set")
    return found.long()


def _batch(images: Any, what: str, channels: int | None) -> Tensor:
    if isinstance(images, Tensor | np.ndarray):
        return _channels_first(images, what, image_dims=images.ndim - 1)
    each = [_image(image, what, channels) for image in images]
    if not each or any(image.shape != each[0].shape or image.dtype != each[0].dtype for image in each):
        raise DataError(f"{what}: its images are of several sizes; make them one size in the data set's transform")
    return torch.stack(each)


def _image(image: Any, what: str, channels: int | None) -> Tensor:
    if isinstance(image, bytes):
        try:
            image = Image.open(io.BytesIO(image))
        except OSError as error:
            raise DataError(f"{what} is not an image that can be read ({error}); remove or replace it") from None
    if isinstance(image, Image.Image):
        grey = image.mode in GREY if channels is None else channels == 1
        return torch.from_numpy(_writable(np.atleast_3d(pixels(image, "L" if grey else "RGB", what)))).permute(2, 0, 1)
    if isinstance(image, list):  # as Hugging Face gives arrays where no format is set
        image = np.asarray(image)
        image = image.astype(np.uint8) if image.dtype == np.int64 and 0 <= image.min() <= image.max() <= 255 else image
    if not isinstance(image, Tensor | np.ndarray):
        raise DataError(f"{what}: the image is a {type(image).__name__}; give a Pillow image, an array or a tensor")
    return _channels_first(image, what, image_dims=image.ndim)


def _channels_first(images: Any, what: str, image_dims: int) -> Tensor:
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(_writable(images))
    if tensor.dtype != torch.uint8:
        check_floats(tensor, what)
        tensor = tensor.float()
    if image_dims == 2:
        return tensor.unsqueeze(-3)
    if image_dims != 3:
        raise DataError(f"{what}: an image has shape {tuple(images.shape)}; (H, W), (C, H, W) or (H, W, C) is needed")
    first, last = tensor.shape[-3] in (1, 3), tensor.shape[-1] in (1, 3)
    last_holds_channels = last if first != last else isinstance(images, np.ndarray)
    return tensor.movedim(-1, -3) if last_holds_channels else tensor


def _writable(array: Any) -> Any:
    """Copy where torch would warn of memory that it may not write, or cannot take it as it lies."""
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()
