"""Functions of a forward have rules as modules have."""

import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast.nn import LipschitzConstant, functions, register_lipschitz_function
from gloro_fast.nn.functions import function_rule


def test_a_function_is_known_by_the_module_that_computes_the_same():
    for function in (F.relu, torch.relu, "relu"):
        assert isinstance(function_rule(function)((3,)), nn.ReLU)
    assert function_rule(F.softmax)((3,), dim=1).dim == 1
    assert function_rule(torch.exp) is None


def test_registering_a_rule(monkeypatch):
    monkeypatch.setattr(functions, "_FUNCTIONS", dict(functions._FUNCTIONS))
    register_lipschitz_function(torch.sin, "sin")(lambda input_shape: LipschitzConstant(1.0))
    assert function_rule(torch.sin)((3,)) == function_rule("sin")((3,)) == LipschitzConstant(1.0)
