"""The norm of absolute values contains the exact one, whatever the layer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloro_fast.bounds.absolute import absolute_norm
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.registry import LinearMap


def unrolled(layer):
    """The layer as a float64 matrix; its columns are exact, each entry being one weight or 0."""
    shape, weight = layer.geometry.input_shape, layer.weight.double()
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return torch.stack([layer.geometry.apply(weight, e).flatten() for e in basis], dim=1)


@st.composite
def layers(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    if draw(st.booleans()):
        out, into = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        weight, geometry = torch.randn(out, into, generator=generator), Geometry((into,))
    else:
        groups = draw(st.sampled_from([1, 2]))
        side, taps, stride, gap = draw(st.tuples(*(st.integers(1, high) for high in (5, 3, 3, 2))))
        padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        geometry = Geometry((2 * groups, side, side), (stride,) * 2, (padding,) * 2, (gap,) * 2, groups)
        weight = torch.randn(2 * groups, 2, taps, taps, generator=generator)
        if side + sum(padding) < gap * (taps - 1) + 1:
            weight = weight[..., :1, :1]
    weight[torch.rand(weight.shape, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.9]))] = 0.0
    return LinearMap(weight * 2.0 ** draw(st.sampled_from([0, -140, -60, 60, 120])), geometry)


@settings(max_examples=60, deadline=None)
@given(layers())
def test_it_is_never_below_the_norm(layer):
    bound, exact = absolute_norm(layer), np.linalg.norm(unrolled(layer).abs().numpy(), 2)
    # Enlarged by more than a float64 decomposition of so small a matrix may be off.
    assert bound >= exact
    assert bound <= exact * 1.01 + 1e-30 or layer.weight.abs().max() < 1e-30


def test_it_is_the_schur_bound_after_one_step_and_tighter_after_more():
    weight = torch.randn(40, 60)
    layer = LinearMap(weight, Geometry((60,)))
    rows, columns = weight.abs().sum(1).max(), weight.abs().sum(0).max()
    exact = float(torch.linalg.matrix_norm(weight.double().abs(), 2))
    assert exact <= absolute_norm(layer) <= exact * 1.001
    assert absolute_norm(layer) < math.sqrt(rows * columns)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_gives_inf(value):
    assert absolute_norm(LinearMap(torch.tensor([[1.0, value]]), Geometry((2,)))) == math.inf


def test_a_norm_beyond_float64_gives_inf_and_zeros_give_next_to_nothing():
    huge = torch.full((4, 4), 1.7e308, dtype=torch.float64)
    assert absolute_norm(LinearMap(huge, Geometry((4,)))) == math.inf
    assert 0 < absolute_norm(LinearMap(torch.zeros(4, 4), Geometry((4,)))) < 1e-30
