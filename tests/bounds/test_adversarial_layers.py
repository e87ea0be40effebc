"""Layers made to show a bound that is no bound: all methods against exact integers, without a tolerance."""

import math

import pytest
import torch
from exact_norms import contains, unrolled

from gloro_fast.bounds import METHODS
from gloro_fast.nn import LinearMap
from gloro_fast.ops import Geometry

BOUNDS = sorted(METHODS.keys() - {"power"})
LARGE, TINY = 1e30, 1e-30


def same(channels, size, taps, groups=1, stride=1, dilation=1):
    reach = dilation * (taps - 1)
    spatial = len(size)
    padding = ((reach // 2, reach - reach // 2),) * spatial
    return Geometry((channels, *size), (stride,) * spatial, padding, (dilation,) * spatial, groups)


def high_pass(outputs, inputs, taps, spatial=2):
    """Second differences along every axis, of which an image of an odd side has more than a torus of that side."""
    line = torch.tensor([math.comb(taps - 1, k) * (-1.0) ** k for k in range(taps)])
    kernel = line
    for _ in range(spatial - 1):
        kernel = kernel[..., None] * line
    return torch.randn(outputs, inputs, *(1,) * spatial).abs() * kernel


LAYERS = {
    "odd side": (high_pass(3, 2, 3), same(2, (5, 5), 3)),
    "sides apart": (high_pass(2, 3, 3), same(3, (3, 9), 3)),
    "side of one": (high_pass(2, 2, 3), same(2, (1, 1), 3)),
    "one axis": (high_pass(1, 1, 3, spatial=1), same(1, (3,), 3)),
    "three axes": (high_pass(2, 1, 3, spatial=3), same(1, (3, 3, 3), 3)),
    "five taps": (high_pass(2, 2, 5), same(2, (7, 7), 5)),
    "even taps": (high_pass(2, 2, 4), same(2, (5, 5), 4)),
    "stride": (high_pass(3, 2, 3), same(2, (7, 7), 3, stride=2)),
    "stride beyond the taps": (high_pass(3, 2, 3), same(2, (9, 9), 3, stride=4)),
    "dilation": (high_pass(2, 2, 3), same(2, (7, 7), 3, dilation=2)),
    "stride and dilation": (high_pass(2, 2, 3), same(2, (9, 9), 3, stride=2, dilation=3)),
    "groups": (high_pass(6, 1, 3), same(3, (5, 5), 3, groups=3)),
    "depthwise": (high_pass(4, 1, 3), same(4, (7, 7), 3, groups=4)),
    # More than the order up to which eigenvalues are estimated directly.
    "many channels": (high_pass(40, 36, 3), same(36, (3, 3), 3)),
    "many channels, one group zero": (
        torch.cat([high_pass(34, 34, 3), torch.zeros(34, 34, 3, 3)]), same(68, (3, 2), 3, groups=2)
    ),
    "wide": (torch.randn(40, 300).sign(), Geometry((300,))),
    "tall": (torch.randn(300, 40).sign(), Geometry((40,))),
    "equal singular values": (torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0], Geometry((64,))),
    "ones": (torch.ones(48, 64), Geometry((64,))),
}  # fmt: skip


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("name", LAYERS)
def test_never_below(method, name):
    weight, geometry = LAYERS[name]
    layer = LinearMap(weight, geometry)
    found = METHODS[method]("layer", layer)
    assert contains(found.value, unrolled(layer))
    if method in ("auto", "tight", "cholesky") and found.method == "cholesky":
        assert found.value < torch.linalg.matrix_norm(unrolled(layer), 2).item() * (1 + 1e-5)


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("name", ["odd side", "stride", "groups", "many channels", "wide"])
@pytest.mark.parametrize("scale", [TINY, LARGE, 2.0**-149, 2.0**-1074])
def test_of_any_size(method, name, scale):
    weight, geometry = LAYERS[name]
    # Multiples of the least number of float32 or float64, in the last two: subnormal.
    whole = (weight * 4).round() if scale < TINY else weight
    layer = LinearMap((whole.double() * scale).to(torch.float64 if scale < 1e-200 else torch.float32), geometry)
    assert layer.weight.any()
    assert contains(METHODS[method]("layer", layer).value, unrolled(layer))


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("name", ["odd side", "many channels", "wide"])
def test_of_sizes_far_apart(method, name):
    weight, geometry = LAYERS[name]
    weight = weight.clone()
    weight[0] *= LARGE
    weight[1] *= TINY
    weight[-1] = 0
    layer = LinearMap(weight, geometry)
    assert contains(METHODS[method]("layer", layer).value, unrolled(layer))
