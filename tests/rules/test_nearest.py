"""Nearest-neighbour interpolation: how often torch copies a pixel, by the type and layout of the images."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast.rules.registry import lipschitz_rule

# Sizes at which float32 copies one pixel once more than float64.
MORE = [(2, 82), (3, 123), (4, 164), (5, 205), (6, 246), (7, 287)]


def most_copies(pixels, dtype, **settings):
    """Count the copies of the busiest pixel: each is a channel of its own."""
    copies = F.interpolate(torch.eye(pixels, dtype=dtype)[None], **settings)
    return int(copies.double().sum((0, 2)).max())


@pytest.mark.parametrize(("pixels", "size"), MORE)
def test_float32_may_copy_a_pixel_once_more(pixels, size):
    assert most_copies(pixels, torch.float32, size=size) == 42
    assert most_copies(pixels, torch.float64, size=size) == 41
    found = lipschitz_rule("layer", nn.Upsample(size=(size, size)), (1, pixels, pixels)).value
    assert 42 <= found <= 42 * (1 + 1e-15)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_pixel_is_copied_more_often_than_the_rule_says(mode, dtype):
    for pixels in (1, 2, 3, 5, 7, 11, 16, 23):
        for size in (*range(1, 60), *range(41 * pixels - 3, 41 * pixels + 4)):
            found = lipschitz_rule("layer", nn.Upsample(size=size, mode=mode), (1, pixels)).value
            assert found**2 >= most_copies(pixels, dtype, size=size, mode=mode) * (1 - 1e-15), (pixels, size)
        for factor in (0.3, 0.5, 1.0, 1.3, 2.0, 3.0, 2.9999999, 41.0, 8 / 3):
            if int(pixels * factor):
                layer = nn.Upsample(scale_factor=factor, mode=mode)
                copies = most_copies(pixels, dtype, scale_factor=factor, mode=mode)
                assert lipschitz_rule("layer", layer, (1, pixels)).value ** 2 >= copies * (1 - 1e-15), (pixels, factor)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_either_layout(memory, dtype):
    for height, width in ((82, 123), (164, 9), (7, 123)):
        pixels = torch.eye(6, dtype=dtype).reshape(1, 6, 2, 3).contiguous(memory_format=memory)
        copies = F.interpolate(pixels, size=(height, width)).sum((0, 2, 3)).max()
        found = lipschitz_rule("layer", nn.Upsample(size=(height, width)), (6, 2, 3)).value
        assert found >= math.sqrt(copies) * (1 - 1e-15)


def test_more_pixels_than_float32_counts_are_refused():
    with pytest.raises(Exception, match="an image 16777217 pixels long has more than float32 can count; crop it"):
        lipschitz_rule("layer", nn.Upsample(scale_factor=2), (1, 2**24 + 1))
