"""The geometric augmentation of Keras's ImageDataGenerator, a batch at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.data.augment.base import Augmentation
from gloro_fast.data.augment.draws import uniform
from gloro_fast.data.augment.warp import resample, sampling


@dataclass(frozen=True)
class KerasAffine(Augmentation):
    """One random affine map an image: rotation, shift, shear, zoom, and perhaps a horizontal flip.

    The semantics are those of ``ImageDataGenerator`` with ``fill_mode="nearest"`` and bilinear interpolation:
    the map from output to input is rotation @ shift @ shear @ zoom about the centre, flipped output first.

    Attributes:
        rotation: degrees; uniform in [-rotation, rotation].
        shift: fraction of height and of width; each uniform in [-shift, shift].
        shear: degrees (so Keras defines it, and 0.1 is next to nothing); uniform in [-shear, shear].
        zoom: for each axis uniform in [1 - zoom, 1 + zoom]; above 1 shows more than the image.
        flip: whether half of the images, at random, are mirrored left to right.
        whole_pixels: whether shifts are rounded to whole pixels, which blurs nothing.
    """

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    whole_pixels: bool = False

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw what :meth:`apply` takes for ``count`` images: (count, 6) float32 on the CPU."""
        return sampling(self.maps(count, height, width, generator), height, width).flatten(1).float()

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment ``images``, float32 (B, C, H, W), by ``draws`` on their device."""
        return resample(images, draws.view(-1, 2, 3))

    def maps(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` maps for images of ``height`` x ``width``: (count, 2, 3), as ``sampling`` takes them."""
        reach = [
            self.rotation,
            self.shift * height,
            self.shift * width,
            self.shear,
            self.zoom,
            self.zoom,
            1.0,
        ]
        draws = uniform(generator, count, [-side for side in reach], reach)
        angle, down, right, shear, zoom_rows, zoom_columns, side = draws.unbind(1)
        zoom_rows, zoom_columns = 1 + zoom_rows, 1 + zoom_columns
        mirror = torch.where(side < 0, -1.0, 1.0) if self.flip else torch.ones_like(side)
        angle, shear = angle * (math.pi / 180), shear * (math.pi / 180)
        rotation = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        shearing = _matrices(torch.ones_like(shear), -shear.sin(), torch.zeros_like(shear), shear.cos())
        zooming = _matrices(zoom_rows, torch.zeros_like(shear), torch.zeros_like(shear), zoom_columns * mirror)
        shift = torch.stack((down, right), dim=1)[:, :, None]
        shift = shift.round() if self.whole_pixels else shift
        return torch.cat((rotation @ shearing @ zooming, rotation @ shift), dim=2)


def _matrices(row_row: Tensor, row_column: Tensor, column_row: Tensor, column_column: Tensor) -> Tensor:
    """Stack (B,) entries into (B, 2, 2), rows of the image before columns."""
    return torch.stack((row_row, row_column, column_row, column_column), dim=1).reshape(-1, 2, 2)
