"""Every method against exact integers: never below, without a tolerance, on layers of every kind."""

import math

import pytest
import torch
from exact_norms import contains, squared_norm_from_below, unrolled
from hypothesis import given, settings
from hypothesis import strategies as st
from random_layers import draw_layer

from gloro_fast.bounds import METHODS
from gloro_fast.nn import LinearMap
from gloro_fast.ops import Geometry

BOUNDS = sorted(METHODS.keys() - {"power"})


@settings(max_examples=400, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("method", BOUNDS)
def test_never_below(method, data):
    layer = draw_layer(lambda options: data.draw(st.sampled_from(options)))
    found = METHODS[method]("layer", layer)
    assert found.kind == "upper bound"
    assert contains(found.value, unrolled(layer))
    # Zero exactly where the weight is.
    assert (found.value == 0) == (not bool(layer.weight.any()))


def sandwich(layer):
    """The norm, from below, as a float."""
    return math.sqrt(squared_norm_from_below(unrolled(layer)))


@pytest.mark.parametrize("method", BOUNDS)
def test_the_check_catches_a_bound_a_thousandth_or_a_billionth_too_small(method):
    layer = LinearMap(torch.randn(4, 2, 3, 3), Geometry((2, 6, 6), (1, 1), ((1, 1), (1, 1)), (1, 1)))
    matrix = unrolled(layer)
    assert contains(METHODS[method]("layer", layer).value, matrix)
    assert not contains(sandwich(layer) * 0.999, matrix)
    assert not contains(sandwich(layer) * (1 - 1e-15), matrix)


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_certifies_nothing(method, bad):
    for shape, geometry in (((3, 3), Geometry((3,))), ((1, 1, 3), Geometry((1, 5), (1,), ((1, 1),), (1,)))):
        weight = torch.randn(shape)
        weight.view(-1)[1] = bad
        assert METHODS[method]("layer", LinearMap(weight, geometry)).value == math.inf


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_the_values_they_are(method, dtype):
    geometry = Geometry((2, 5, 5), (1, 1), ((1, 1), (1, 1)), (1, 1))
    weight = torch.randn(4, 2, 3, 3).to(dtype)
    half, single = (METHODS[method]("layer", LinearMap(w, geometry)).value for w in (weight, weight.float()))
    assert half == single


@pytest.fixture
def _flushing():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_flushing")
@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flushed_subnormals_are_not_lost(method, dtype):
    weight = torch.zeros(2, 3, dtype=dtype)
    size = {torch.float32: 1.401298464324817e-45, torch.float64: 5e-324}[dtype]
    weight.view(torch.int32 if dtype == torch.float32 else torch.int64).fill_(7)
    found = METHODS[method]("layer", LinearMap(weight, Geometry((3,)))).value
    assert found > 2 * 7 * size
    if dtype == torch.float32:
        assert found == pytest.approx(6**0.5 * 7 * size, rel=1e-2)
