"""The augmentation that the paper calls tfds: flip, zoom into the image, brightness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.data.augment.base import Augmentation
from gloro_fast.data.augment.draws import uniform
from gloro_fast.data.augment.warp import resample, sampling


@dataclass(frozen=True)
class FlipZoomBrightness(Augmentation):
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

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw what :meth:`apply` takes for ``count`` images: (count, 7) float32 on the CPU."""
        low = [0.0, 1 - self.zoom, 0.0, 0.0, -self.brightness]
        side, box, top, left, delta = uniform(generator, count, low, [1.0, 1.0, 1.0, 1.0, self.brightness]).unbind(1)
        mirror = torch.where(side < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(side)
        # The box's centre, from the image's: from -1/2 to 1/2 of what the box leaves free of each side.
        down, right = (top - 0.5) * (1 - box) * (height - 1), (left - 0.5) * (1 - box) * (width - 1)
        zero = torch.zeros_like(box)
        maps = torch.stack((box, zero, down, zero, box * mirror, right), dim=1).reshape(-1, 2, 3)
        return torch.cat((sampling(maps, height, width).flatten(1), delta[:, None]), dim=1).float()

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment ``images``, float32 (B, C, H, W) in [0, 1], by ``draws`` on their device."""
        warped = resample(images, draws[:, :6].reshape(-1, 2, 3))
        return (warped + draws[:, 6, None, None, None]).clamp(0, 1)
