"""A net is captured once more as it is in training, but where no code of its module asks for the mode."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.graph import reads
from gloro_fast.models import architectures
from gloro_fast.nn import MinMax

SHAPE = (4,)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x) * self.factor()

    def factor(self):
        return 1.0


# Twice as much in training as in evaluation.


class Asks(Plain):
    def factor(self):
        return 2.0 if self.training else 1.0


class AsksByName(Plain):
    def factor(self):
        return 2.0 if getattr(self, str.lower("TRAINING")) else 1.0


def factor_of(module):
    return 2.0 if module.training else 1.0


class AsksInAFunction(Plain):
    def factor(self):
        return factor_of(self)


class Switches(Plain):
    """Asks for something else, which the mode changes."""

    def factor(self):
        return self.scale

    def train(self, mode=True):
        self.scale = 2.0 if mode else 1.0
        return super().train(mode)


class SwitchesAsItIsSet(Plain):
    scale = 2.0

    def factor(self):
        return self.scale

    @property
    def training(self):
        return self.scale == 2.0

    @training.setter
    def training(self, mode):
        self.scale = 2.0 if mode else 1.0


class AsksByAProperty(Plain):
    @property
    def scale(self):
        return 2.0 if self.training else 1.0

    def factor(self):
        return self.scale


class AsksInADecoratedMethod(Plain):
    @torch.enable_grad()
    def factor(self):
        return 2.0 if self.training else 1.0


class Policy:
    """Of an installed package, whose code is not read."""

    def __init__(self):
        self.held = []

    def factor(self):
        return 2.0 if self.held[0].training else 1.0


class AsksWhoever(Plain):
    def factor(self):
        return self.policy.factor()


def asks_whoever():
    module = AsksWhoever()
    module.policy = Policy()
    module.policy.held.append(module)
    return module


@pytest.fixture(autouse=True)
def _package(monkeypatch):
    package = ModuleType("installed_package")
    package.__file__ = "/lib/site-packages/installed_package.py"
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setattr(Policy, "__module__", package.__name__)


def is_captured_once(net):
    return net._training_plan.nodes is net._plan.nodes


@pytest.mark.parametrize("of_library", [False, True])
@pytest.mark.parametrize("kind", [Asks, AsksByAProperty, AsksInADecoratedMethod, Switches])
def test_a_class_that_differs_in_training(kind, of_library, monkeypatch):
    if of_library:
        monkeypatch.setattr(reads, "_LIBRARIES", reads._LIBRARIES | {__name__})
    assert_it_differs(GloRoNet(kind(), 0.1, SHAPE))


@pytest.mark.parametrize("kind", [AsksByName, AsksInAFunction, SwitchesAsItIsSet, asks_whoever])
def test_code_that_differs_in_training(kind):
    assert_it_differs(GloRoNet(kind(), 0.1, SHAPE))


def assert_it_differs(net):
    assert not is_captured_once(net)
    x = torch.rand(5, *SHAPE)
    torch.testing.assert_close(net(x)[:, :3], 2 * net.module.head(x))
    torch.testing.assert_close(net.eval()(x)[:, :3], net.module.head(x))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Dropout(0.0)])
def test_layers_that_differ_in_training(layer):
    net = GloRoNet(nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3)), 0.1, SHAPE)
    assert not is_captured_once(net)


def test_others_are_captured_once():
    nets = [
        GloRoNet(Plain(), 0.1, SHAPE),
        GloRoNet(nn.Sequential(nn.Linear(4, 4), MinMax(), nn.ReLU(), nn.Linear(4, 3)), 0.1, SHAPE),
        GloRoNet(architectures.build("2C2F", input_shape=(1, 8, 8), num_classes=3), 0.1, (1, 8, 8)),
    ]
    assert all(map(is_captured_once, nets))


def test_a_forward_that_comes_to_ask_is_captured_anew():
    module = Plain()
    net, x = GloRoNet(module, 0.1, SHAPE), torch.rand(5, *SHAPE)
    torch.testing.assert_close(net(x)[:, :3], module.head(x))
    module.__class__ = Asks
    torch.testing.assert_close(net(x)[:, :3], 2 * module.head(x))
    assert not is_captured_once(net)


def test_parts_that_stay_in_evaluation_are_left_so():
    net = GloRoNet(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), 0.1, SHAPE)
    net.module[0].eval()
    assert not net.is_planned()
    net(torch.rand(5, *SHAPE))
    assert net.is_planned()
    assert [child.training for child in net.module] == [False, True, True]
