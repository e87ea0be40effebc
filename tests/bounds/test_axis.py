"""What a layer does is the same, however it is written."""

import pytest
import torch

from gloro_fast.bounds.axis import without_idle_taps
from gloro_fast.ops import Geometry


@pytest.mark.parametrize(
    ("taps", "geometry", "left"),
    [
        ((3, 3), Geometry((2, 1, 1), (1, 1), ((1, 1), (1, 1)), (1, 1)), (1, 1)),
        ((3, 3), Geometry((2, 2, 1), (1, 1), ((1, 1), (1, 1)), (1, 1)), (3, 1)),
        ((3, 3), Geometry((2, 2, 2), (2, 2), ((1, 1), (1, 1)), (1, 1)), (2, 2)),
        ((5, 4), Geometry((2, 2, 3), (1, 2), ((3, 2), (0, 3)), (1, 1)), (4, 3)),
        ((7,), Geometry((2, 3), (4,), ((6, 2),), (1,)), (5,)),
        ((7,), Geometry((2, 3), (4,), ((6, 0),), (1,)), (1,)),
        ((3, 3), Geometry((4, 1, 1), (1, 1), ((1, 1), (1, 1)), (1, 1), 2), (1, 1)),
        # No tap reads anything; what is dilated or circular.
        ((1,), Geometry((2, 1), (2,), ((1, 0),), (1,)), (1,)),
        ((3,), Geometry((2, 1), (1,), ((2, 2),), (2,)), (3,)),
        ((3,), Geometry((2, 1), (1,), ((1, 1),), (1,), 1, "circular"), (3,)),
    ],
)
def test_idle_taps_make_no_difference(taps, geometry, left):
    weight = torch.randn(4, geometry.input_shape[0] // geometry.groups, *taps, dtype=torch.float64)
    fewer, its = without_idle_taps(weight, geometry)
    assert fewer.shape[2:] == left
    x = torch.randn(geometry.input_shape, dtype=torch.float64)
    expected = geometry.apply(weight, x)
    found = its.apply(fewer, x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    y = torch.randn_like(expected)
    torch.testing.assert_close(its.adjoint(fewer, y), geometry.adjoint(weight, y), rtol=1e-13, atol=1e-13)
