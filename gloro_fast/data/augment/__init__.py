"""Augmentation of whole batches on the training device, by name; the paper's own are in its Appendix A."""

from __future__ import annotations

from gloro_fast.data.augment.base import Augmentation as Augmentation
from gloro_fast.data.augment.keras import KerasAffine
from gloro_fast.data.augment.tfds import FlipZoomBrightness
from gloro_fast.errors import ConfigError, nearest

_BY_NAME: dict[str, Augmentation] = {
    "none": Augmentation(),
    "default": KerasAffine(rotation=20, shift=0.2, shear=0.1, zoom=0.1, flip=True),
    "light": KerasAffine(rotation=4, shift=0.025, zoom=0.03),
    "crop": KerasAffine(shift=1 / 8, flip=True, whole_pixels=True),
    "tfds": FlipZoomBrightness(flip=True, zoom=0.25, brightness=0.2),
}

AUGMENTATIONS = tuple(_BY_NAME)
"""The names that :func:`augmentation` knows."""


def augmentation(name: str) -> Augmentation:
    """Return the augmentation called ``name``.

    Args:
        name: "none"; "default", the paper's ImageDataGenerator with rotation_range=20, width_shift_range=0.2,
            height_shift_range=0.2, horizontal_flip=True, shear_range=0.1, zoom_range=0.1; "tfds", its horizontal
            flip, zoom 0.25 and brightness 0.2. Not the paper's: "crop", a flip and a shift by whole pixels, up to 1/8
            of a side, with the border repeated, next to what most train CIFAR-10 with; "light", for digits: rotations
            up to 4 degrees, shifts up to 1/40 of a side, zoom up to 3 %, no flip.

    Returns:
        It, to be called as a function of (images, generator). All its random numbers come from the CPU generator, the
        same count for every batch of a size, so a seed gives the same augmentation on every device.

    Raises:
        ConfigError: unknown name; the message has the nearest.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ConfigError(f"unknown augmentation {name!r}{nearest(name.lower(), AUGMENTATIONS)}") from None
