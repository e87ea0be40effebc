import math

import pytest
import torch
from torch.autograd import gradcheck

from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.nn import Householder, MinMax


def at(*angles):
    layer = Householder(2 * len(angles)).double()
    layer.theta.data = torch.tensor(angles, dtype=torch.float64)
    return layer


@pytest.mark.parametrize("shape", [(50, 8), (5, 8, 3, 4)])
def test_it_begins_as_minmax(shape):
    x = torch.randn(shape)
    torch.testing.assert_close(Householder(8)(x), MinMax()(x), rtol=1e-5, atol=1e-6)


def test_a_pair_stays_or_is_reflected():
    theta, x = 1.3, torch.randn(100, 2, dtype=torch.float64)
    v = torch.tensor([-math.sin(theta / 2), math.cos(theta / 2)], dtype=torch.float64)
    side = x @ v
    expected = torch.where(side[:, None] > 0, x, x - 2 * side[:, None] * v)
    torch.testing.assert_close(at(theta)(x), expected)


def test_both_sides_agree_on_the_line():
    theta = 0.7
    line = torch.tensor([[math.cos(theta / 2), math.sin(theta / 2)]], dtype=torch.float64)
    beside = torch.tensor([[-line[0, 1], line[0, 0]]], dtype=torch.float64) * 1e-9
    torch.testing.assert_close(at(theta)(line + beside), at(theta)(line - beside), rtol=0, atol=1e-8)


def test_gradients_reach_input_and_angles():
    layer = at(0.4, -2.0)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, theta: torch.func.functional_call(layer, {"theta": theta}, x), (x, layer.theta))


def test_a_nan_spoils_its_pair_alone():
    result = Householder(4)(torch.tensor([[torch.nan, 1.0, 2.0, 1.0]]))[0]
    assert result[:2].isnan().all()
    assert result[2:].isfinite().all()


def test_channels_that_do_not_fit_are_named():
    with pytest.raises(ArchitectureError, match=r"for 4 channels, but gets shape \(2, 6\)"):
        Householder(4)(torch.zeros(2, 6))
    with pytest.raises(ConfigError, match="channels is 3"):
        Householder(3)
