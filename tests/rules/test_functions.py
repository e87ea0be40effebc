"""Functions of a forward that are one operation by a rule of their own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError
from gloro_fast.nn import LipschitzConstant, register_lipschitz_function
from gloro_fast.rules import functions


def soft_sign(x):
    return x / (1 + x.abs())


def hard_sigmoid(x, *, steepness=1.0):
    return torch.sigmoid(steepness * x)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.head = function, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.function(x))


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(functions, "_FUNCTIONS", dict(functions._FUNCTIONS))


def lipschitz(function):
    net = GloRoNet(Calls(function), 0.1, (4,)).eval()
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x)[:, :3], net.module(x))
    return net.lipschitz


@pytest.mark.parametrize("function", [F.softsign, F.tanhshrink])
def test_functions_of_pytorch_that_consist_of_others_have_the_rule_of_their_layer(function):
    assert lipschitz(function) == 1.0


def test_functions_of_pytorch_and_methods_take_a_rule():
    register_lipschitz_function(torch.sin, "sin")(lambda input_shape: LipschitzConstant(3.0))
    assert lipschitz(torch.sin) == lipschitz(lambda x: x.sin()) == 3.0
    with pytest.raises(ConfigError, match="tensors have no method 'sinus'"):
        register_lipschitz_function("sinus")


def test_a_function_of_ones_own_takes_a_rule():
    with pytest.raises(Exception, match="multiplies or divides two tensors"):
        lipschitz(lambda x: soft_sign(x))
    register_lipschitz_function(soft_sign)(lambda input_shape: LipschitzConstant(1.0))
    assert lipschitz(lambda x: soft_sign(x)) == 1.0
    # It is called by its name, where the rule was found for it, with what it is called with.
    seen = []

    @register_lipschitz_function(hard_sigmoid)
    def _hard_sigmoid(input_shape, steepness=1.0):
        seen.append((input_shape, steepness))
        return LipschitzConstant(steepness / 4)

    assert lipschitz(lambda x: hard_sigmoid(x, steepness=2.0)) == 0.5
    assert seen[0] == ((4,), 2.0)


def test_a_rule_may_name_the_layer_that_computes_the_same():
    register_lipschitz_function(torch.erf)(lambda input_shape: nn.Tanh())
    net = GloRoNet(Calls(nn.Tanh()), 0.1, (4,)).eval()
    assert net.lipschitz == 1.0
