import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError
from gloro_fast.graph.execution import BiasedMinMax
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import MinMax, ResidualConv2d
from gloro_fast.rules.registry import lipschitz_rule


@pytest.mark.parametrize(("kernel", "bias"), [(1, True), (3, True), (5, False)])
def test_it_adds_its_input(kernel, bias):
    layer = ResidualConv2d(4, kernel, bias=bias).double()
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    expected = x + F.conv2d(x, layer.weight, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_its_norm_is_below_one_plus_that_of_the_branch():
    layer = ResidualConv2d(1, 3, bias=False).double()
    layer.weight.data = -layer.identity / 2
    rule = lipschitz_rule("0", layer, (1, 4, 4))
    basis = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    exact = torch.linalg.matrix_norm(layer(basis).flatten(1), 2)
    assert exact.item() == pytest.approx(0.5)
    assert torch.equal(rule.weight, layer.identity / 2)


def test_the_state_is_that_of_a_convolution():
    layer = ResidualConv2d(4)
    assert set(layer.state_dict()) == {"weight", "bias"}
    plain = nn.Conv2d(4, 4, 3)
    plain.load_state_dict(layer.state_dict())


def test_in_a_net_its_bias_goes_to_minmax_and_the_bound_trains_it():
    module = nn.Sequential(ResidualConv2d(4), MinMax(), nn.Flatten(), nn.Linear(64, 3))
    net = GloRoNet(module, 0.1, (4, 4, 4))
    assert isinstance(net._plan.program.chain[0], BiasedMinMax)
    x, y = torch.rand(8, 4, 4, 4), torch.randint(3, (8,))
    torch.testing.assert_close(net(x)[:, :3], module(x))
    net(x, y, CrossEntropyLoss()).backward()
    assert module[0].weight.grad.abs().sum() > 0
    assert torch.autograd.grad(net._training_lipschitz(), module[0].weight)[0].abs().sum() > 0


def test_changed_weights_are_noticed():
    net = GloRoNet(nn.Sequential(ResidualConv2d(2), nn.Flatten(), nn.Linear(32, 3)), 0.1, (2, 4, 4)).eval()
    before = net.lipschitz
    copied = copy.deepcopy(net)
    copied.module[0].weight.data.mul_(3)
    assert copied.lipschitz > before == net.lipschitz


def test_an_even_kernel_has_no_middle():
    with pytest.raises(ConfigError, match="kernel_size is 4"):
        ResidualConv2d(2, 4)
