"""The augmentation that the paper calls tfds: flip, zoom into the image, brightness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.data.augment.draws import uniform
from gloro_fast.data.augment.warp import warp


@dataclass(frozen=True)
class FlipZoomBrightness:
    """A horizontal flip, a random box enlarged to the whole image, and an added constant; per image.

    The paper (Appendix A) names only the ranges. The zoom follows the authors' released TensorFlow pipeline:
    a box with sides a fraction uniform in [1 - zoom, 1] of the image's, at a uniform position inside it,
    enlarged bilinearly so that the outermost pixel centres of box and image coincide. So this zoom only
    enlarges, keeps the aspect and never shows a border; Keras's ``zoom_range`` would shrink half of the time.
    The brightness is that of ``tf.image.random_brightness``, then clipped to [0, 1].

    Attributes:
        flip: whether half of the images, at random, are mirrored left to right.
        zoom: largest part of a side that is cut away, in [0, 1).
        brightness: the constant is uniform in [-brightness, brightness].
    """

    flip: bool = False
    zoom: float = 0.0
    brightness: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment ``images``, float (B, C, H, W) in [0, 1]; ``generator`` is a CPU generator."""
        low = [0.0, 1 - self.zoom, 0.0, 0.0, -self.brightness]
        side, box, top, left, delta = uniform(
            generator, len(images), low, [1.0, 1.0, 1.0, 1.0, self.brightness]
        ).unbind(1)
        mirror = torch.where(side < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(side)
        height, width = images.shape[-2:]
        # The box's centre, from the image's: from -1/2 to 1/2 of what the box leaves free of each side.
        down, right = (top - 0.5) * (1 - box) * (height - 1), (left - 0.5) * (1 - box) * (width - 1)
        zero = torch.zeros_like(box)
        maps = torch.stack((box, zero, down, zero, box * mirror, right), dim=1).reshape(-1, 2, 3)
        warped = warp(images, maps)
        return (warped + delta[:, None, None, None].to(images.device, images.dtype)).clamp(0, 1)
