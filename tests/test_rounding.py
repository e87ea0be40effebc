"""Containment, against exact rationals: never below, strictly."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_fast.bounds import head_difference_bounds
from gloro_fast.rounding import down, product_up, up

positive = st.floats(min_value=0, max_value=1e300, allow_subnormal=True)


@given(st.lists(positive, max_size=8))
def test_product_is_never_below(factors):
    exact = math.prod((Fraction(x) for x in factors), start=Fraction(1))
    bound = product_up(factors)
    assert bound == math.inf or Fraction(bound) >= exact
    assert (bound == 0) == (exact == 0)


def test_product_of_what_is_unknown_certifies_nothing():
    for bad in (math.nan, math.inf, -1.0):
        assert product_up([2.0, bad]) == math.inf
        assert product_up([0.0, bad]) == math.inf


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_up_and_down_contain_the_real_sum(a, b):
    computed = torch.tensor([a + b], dtype=torch.float64)
    if computed.isfinite():
        assert Fraction(down(computed).item()) <= Fraction(a) + Fraction(b) <= Fraction(up(computed).item())


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([1e-320, 1e-160, 1e-30, 1.0, 1e30]))
def test_head_differences_are_never_below(seed, features, scale):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, features, generator=generator, dtype=torch.float64) * scale
    weight[1] = weight[0] * (1 + 2**-50)
    weight[2] = weight[3]
    bounds = head_difference_bounds(weight)
    for i in range(4):
        for j in range(4):
            square = sum(
                (Fraction(a) - Fraction(b)) ** 2 for a, b in zip(weight[i].tolist(), weight[j].tolist(), strict=True)
            )
            assert Fraction(bounds[i, j].item()) ** 2 >= square
            assert (bounds[i, j] == 0) == (square == 0)
            if square > Fraction(1, 10**250):
                # Tight as well, or a test of containment alone would pass with infinity.
                assert Fraction(bounds[i, j].item()) ** 2 <= square * (1 + Fraction(1, 10**12))


def test_float32_rows_are_taken_as_they_are():
    weight = torch.randn(12, 500)
    bounds = head_difference_bounds(weight)
    exact = (weight.double()[:, None] - weight.double()[None]).norm(dim=2)
    assert (bounds >= exact).all()
    assert torch.equal(bounds, bounds.T)
    torch.testing.assert_close(bounds, exact, rtol=1e-12, atol=0)


@pytest.fixture
def _flushing():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_flushing")
def test_flushed_products_are_not_lost():
    assert product_up([1e-200, 1e-200, 1e300]) >= 1e-100


@pytest.mark.usefixtures("_flushing")
def test_flushed_rows_are_still_apart():
    weight = torch.zeros(2, 3)
    weight.view(torch.int32)[0, 0] = 1 << 20  # A subnormal, 1.5e-39.
    assert head_difference_bounds(weight)[0, 1] >= 1.5e-39
