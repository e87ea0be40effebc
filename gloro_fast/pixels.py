"""Pixels as the nets take them: float32 in [0, 1], one rule for every data set and every device."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gloro_fast.errors import DataError


def to_float(images: Tensor) -> Tensor:
    """Return ``images`` as float32, bytes divided by 255 and floats taken to be in [0, 1] already.

    Args:
        images: uint8 of any shape, or any floating type.

    Returns:
        float32, same shape and device; ``images`` itself where it is float32 already.

    Raises:
        DataError: another dtype; NaN or infinite pixels.

    Warns:
        UserWarning: floats outside [0, 1].
    """
    if images.dtype == torch.uint8:
        return bytes_to_float(images)
    check_floats(images, "images")
    return images.float()


def bytes_to_float(images: Tensor) -> Tensor:
    """Divide uint8 ``images`` by 255: the float32 nearest to v / 255, the same bits on every device."""
    # On CUDA, division by a Python number becomes multiplication by its rounded reciprocal; by a tensor, not.
    return images.float().div_(torch.full((), 255.0, device=images.device))


def check_floats(images: Tensor, what: str) -> None:
    """Refuse ``images`` that are no finite floats, and warn where they leave [0, 1].

    Args:
        images: the pixels, any shape.
        what: what to call them in messages, "x_train of data.npz" for example.

    Raises:
        DataError: not a floating type; NaN or infinite pixels.

    Warns:
        UserWarning: pixels outside [0, 1].
    """
    if not images.is_floating_point():
        dtype = str(images.dtype).removeprefix("torch.")
        raise DataError(f"{what}: pixels are {dtype}; give uint8 (0 to 255) or float (0 to 1)")
    if images.numel() == 0:
        return
    low, high = (extreme.item() for extreme in torch.aminmax(images))
    # A NaN anywhere comes out of aminmax, so the two extremes speak for all pixels.
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        count = int((~torch.isfinite(images)).sum())
        raise DataError(f"{what}: {count} of {images.numel()} pixels are NaN or infinite; remove or repair them")
    if low < 0 or high > 1:
        warnings.warn(
            f"{what}: pixels range from {low:g} to {high:g}, outside [0, 1]; epsilon is meant for pixels in "
            "[0, 1], so rescale them (divide bytes by 255) unless epsilon is in your own units",
            UserWarning,
            # Always the same place, so that a process says it once, not at every reading of the same pixels.
            stacklevel=1,
        )


def check_shape(images: Tensor, input_shape: tuple[int, ...]) -> None:
    """Refuse a batch whose images are of another size than the net takes.

    Args:
        images: (B, *any).
        input_shape: what the net takes, (C, H, W) without the batch.

    Raises:
        DataError: another shape; the message names both.
    """
    if images.dim() == len(input_shape) and tuple(images.shape) == tuple(input_shape):
        raise DataError(f"images have no batch dimension (shape {_by(images.shape)}); add one with images[None]")
    if tuple(images.shape[1:]) != tuple(input_shape):
        raise DataError(
            f"images are {_by(images.shape[1:])} but the net takes {_by(input_shape)}; resize them or build "
            f"the net with input_shape={tuple(images.shape[1:])}"
        )


def check_batch(images: Tensor, input_shape: tuple[int, ...], dtype: torch.dtype, autocast: bool = True) -> None:
    """Refuse a batch of another type or shape than the net's; under autocast any floating type will do.

    Args:
        images: the batch.
        input_shape: shape of one image of the net.
        dtype: of the net.
        autocast: whether autocast has a part in what is done with them.

    Raises:
        DataError: names what is wrong.
    """
    if not isinstance(images, Tensor):
        raise DataError(f"images are a {type(images).__name__}; give a tensor")
    if not images.is_floating_point():
        raise DataError(f"images are {images.dtype}; scale them to [0, 1] with gloro_fast.data.to_float(images)")
    if images.dtype != dtype and not (autocast and torch.is_autocast_enabled(images.device.type)):
        raise DataError(f"images are {images.dtype} but the net is {dtype}; convert one of them")
    check_shape(images, input_shape)


def check_images(images: Tensor, input_shape: tuple[int, ...], dtype: torch.dtype, pixels: bool = True) -> None:
    """Refuse what cannot be certified: another type or shape than the net's, no images, NaN or infinite pixels.

    Args:
        images: the batch.
        input_shape: shape of one image of the net.
        dtype: of the net.
        pixels: look at these as well, and wait for their device.

    Raises:
        DataError: names what is wrong.

    Warns:
        UserWarning: pixels outside [0, 1], which a net may well take.
    """
    check_batch(images, input_shape, dtype, autocast=False)
    if len(images) == 0:
        raise DataError("the batch is empty; give at least one image")
    if pixels:
        check_floats(images, "images")


def _by(shape: tuple[int, ...]) -> str:
    """Write (1, 28, 28) as 1x28x28."""
    return "x".join(map(str, shape)) or "scalars"
