"""What a bound is signed for besides the bits of the parameters: buffers, attributes, code, hooks, modes."""

import math

import pytest
import torch
from small_nets import SHAPE, batch, classifier, glorot_net
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from gloro_fast import GloRoNet
from gloro_fast.errors import (
    ArchitectureError,
    ConfigError,
    StaleBoundError,
    UnknownLayerError,
)
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import LinearMap, LipschitzConstant, MinMax, register_lipschitz_rule
from gloro_fast.ops import Geometry
from gloro_fast.rules import registry


class Scaled(nn.Module):
    """A layer whose constant is a plain attribute."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, x):
        return self.scale * x + self.offset


class TimesFactor(nn.Module):
    """A parametrization with a factor that is neither parameter nor buffer."""

    factor = 1.0

    def forward(self, weight):
        return self.factor * weight


def flat_net(*layers):
    return GloRoNet(nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 3)), 0.1, SHAPE).eval().freeze()


class TestWhatTheBitsOfParametersDoNotTell:
    @pytest.fixture(autouse=True)
    def _rule(self, monkeypatch):
        monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
        register_lipschitz_rule(Scaled)(lambda module, shape: LipschitzConstant(module.scale, "upper bound"))

    def stale(self, net):
        with pytest.raises((StaleBoundError, ArchitectureError)) as caught:
            net.certify(batch()[0])
        assert "\n" not in str(caught.value)

    def test_an_attribute_that_a_rule_reads(self):
        net = flat_net(Scaled(1.0))
        net.module[1].scale = 1000.0
        self.stale(net)

    def test_a_buffer(self):
        net = flat_net(Scaled(1.0))
        net.module[1].offset += 1
        self.stale(net)

    def test_an_attribute_of_a_parametrization(self):
        linear = nn.Linear(64, 64)
        parametrize.register_parametrization(linear, "weight", TimesFactor())
        net = flat_net(linear)
        linear.parametrizations.weight[0].factor = 100.0
        self.stale(net)

    def test_a_weight_that_is_no_parameter(self):
        linear = nn.Linear(64, 64)
        weight = linear.weight.detach().clone()
        del linear.weight
        linear.weight = weight
        net = flat_net(linear)
        weight *= 100
        self.stale(net)

    def test_a_parameter_that_is_shared_with_another_layer_now(self):
        a, b, c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        c.weight = a.weight
        net = flat_net(a, b, c)
        c.weight = b.weight
        self.stale(net)

    def test_another_method_of_the_layer(self):
        net = GloRoNet(classifier(), 0.1, SHAPE).eval().freeze()
        net.module[0]._conv_forward = lambda x, weight, bias: 100 * x
        self.stale(net)

    def test_hooks(self):
        net = flat_net(nn.Linear(64, 64))
        for module in (net.module, net.module[1]):
            hook = module.register_forward_hook(lambda module, args, output: 2 * output)
            self.stale(net)
            hook.remove()
        hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: 2 * output)
        try:
            self.stale(net)
        finally:
            hook.remove()
        net.certify(batch()[0])

    def test_a_tensor_subclass(self):
        class Louder(torch.Tensor):
            pass

        linear = nn.Linear(64, 64)
        linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Louder))
        with pytest.raises(ArchitectureError, match="Louder"):
            flat_net(linear)

    def test_a_parametrized_class_that_is_none(self):
        class Fake(nn.Linear):
            def forward(self, x):
                return 100 * super().forward(x)

        fake = Fake(64, 64)
        fake.parametrizations = nn.ModuleDict({"weight": nn.Identity()})
        with pytest.raises(UnknownLayerError, match="Fake"):
            flat_net(fake)

    def test_autocast_around_freeze_changes_nothing(self):
        linear = parametrizations.orthogonal(nn.Linear(64, 64), orthogonal_map="cayley")
        net = flat_net(linear)
        with torch.autocast("cpu", torch.bfloat16):
            inside = net.freeze().lipschitz
        assert net.freeze().lipschitz == inside

    def test_the_input_shape_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            glorot_net().input_shape = (1, 9, 9)

    def test_a_subclass_with_a_rule_of_its_own_is_executed_as_it_is(self):
        class Weakened(nn.Linear):
            def forward(self, x):
                return nn.functional.linear(x, 0.01 * self.weight, self.bias)

        register_lipschitz_rule(Weakened)(lambda module, shape: LinearMap(0.01 * module.weight, Geometry(shape)))
        net = flat_net(Weakened(64, 64), MinMax())
        x, _ = batch()
        torch.testing.assert_close(net(x)[:, :3], net.module(x))

    def test_training_sees_a_constant_as_it_is_now(self):
        net = flat_net(Scaled(1.0), nn.Linear(64, 64)).unfreeze().train()
        x, y = batch()
        net(x, y % 3, CrossEntropyLoss())
        before = net.batch_statistics.lipschitz
        net.module[1].scale = 100.0
        net(x, y % 3, CrossEntropyLoss())
        assert net.batch_statistics.lipschitz > 90 * before

    @pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
    def test_constants_that_are_none(self, value):
        with pytest.raises(ConfigError, match="Lipschitz constant"):
            flat_net(Scaled(value))

    def test_a_constant_is_a_float64(self):
        value = LipschitzConstant(torch.tensor(0.1)).value
        assert type(value) is float
        assert value == float(torch.tensor(0.1))
        with pytest.raises(ConfigError, match="'upper bound'"):
            LipschitzConstant(1.0, "upper_bound")

    def test_a_rule_that_gives_nothing(self):
        register_lipschitz_rule(Scaled)(lambda module, shape: None)
        with pytest.raises(ConfigError, match="gave None"):
            flat_net(Scaled(1.0))
