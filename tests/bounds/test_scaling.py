import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_fast.bounds.scaling import scale


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_scaling_is_exact_but_for_what_is_tiny_beside_the_largest(values):
    scaled = scale(torch.tensor(values, dtype=torch.float64))
    if not any(values):
        assert scaled == 0.0
        return
    assert 0.5 <= scaled.weight.abs().max() < 1
    for value, found in zip(values, scaled.weight.tolist(), strict=True):
        assert abs(Fraction(found) * Fraction(2) ** scaled.exponent - Fraction(value)) <= Fraction(2) ** (
            scaled.exponent - 970
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_subnormals_are_exact(dtype):
    weight = torch.tensor([2.0**-149, -3 * 2.0**-149, 2.0**-127, 2.0**-24]).to(dtype)
    scaled = scale(weight[weight != 0])
    back = [Fraction(value) * Fraction(2) ** scaled.exponent for value in scaled.weight.tolist()]
    assert back == [Fraction(value) for value in weight[weight != 0].tolist()]


def test_never_unscaled_to_zero_nor_below():
    tiny = scale(torch.full((1,), 5e-324, dtype=torch.float64))
    assert tiny.unscale_up(0.5) >= 2.2e-308
    huge = scale(torch.full((1,), 1e308, dtype=torch.float64))
    assert huge.unscale_up(0.9) > 1e308
    assert huge.unscale_up(4.0) == math.inf
    assert huge.unscale_up(math.nan) == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite(bad):
    assert scale(torch.tensor([1.0, bad])) == math.inf
