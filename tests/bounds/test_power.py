import math

import pytest
import torch

from gloro_fast.bounds import bound_network
from gloro_fast.bounds.power import MAX_ITERATIONS, power
from gloro_fast.errors import ConfigError
from gloro_fast.nn import LinearMap, LipschitzConstant
from gloro_fast.ops import Geometry


def dense(weight):
    return LinearMap(weight, Geometry((weight.shape[1],)))


def test_converges_from_below():
    weight = torch.randn(20, 30)
    exact = torch.linalg.matrix_norm(weight.double(), 2).item()
    found = power("fc", dense(weight))
    assert exact * 0.999 < found.value <= exact * (1 + 1e-14)
    assert found.converged
    assert 1 < found.iterations < MAX_ITERATIONS
    assert found.kind == "estimate"


def test_depends_on_the_weight_alone():
    weight = torch.randn(20, 30)
    first = power("fc", dense(weight))
    torch.manual_seed(5)
    torch.randn(3)
    assert power("fc", dense(weight)) == first


def test_what_does_not_converge_says_so():
    # Two singular values so close that 5,000 iterations change the estimate by more than it tolerates? They do
    # not: a slow case stops early, and only NaN never stops.
    found = power("fc", dense(torch.full((2, 2), math.nan)))
    assert found.value == math.inf
    assert not found.converged
    assert found.iterations == MAX_ITERATIONS


def test_zero_is_zero_and_underflow_is_not():
    assert power("fc", dense(torch.zeros(3, 3))).value == 0
    assert power("fc", dense(torch.full((3, 3), 1e-300, dtype=torch.float64))).value > 0
    # The smallest float32 number: a float32 computation of its norm gives 0.
    assert power("fc", dense(torch.full((3, 3), 1e-45))).value >= 1.4e-45


def test_network_is_the_product_and_repeats_the_weakest_kind():
    weight = torch.eye(3) * 2
    rule, half = LipschitzConstant(1.0), LipschitzConstant(0.5, "upper bound")
    network = bound_network([("0", dense(weight)), ("1", rule), ("2", half)], "power")
    assert network.lipschitz == pytest.approx(1.0)
    assert network.lipschitz >= network.layers[0].value * 0.5
    assert network.kind == "estimate"
    assert network.label == "power (estimate)"
    assert [layer.method for layer in network.layers] == ["power", "rule", "rule"]
    assert bound_network([("1", rule), ("2", half)], "power").kind == "upper bound"
    assert bound_network([], "power").lipschitz == 1.0


def test_unknown_method():
    with pytest.raises(ConfigError, match="'power'"):
        bound_network([], "powr")
