"""What a module keeps as attributes, and which changes of it make a frozen net stale."""

import copy
import pickle
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_nets import SHAPE, batch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import StaleBoundError
from gloro_fast.files.attributes import shown_attributes, shown_settings
from gloro_fast.net.net_fingerprint import structure


@dataclass
class Config:
    gain: float = 1.0
    more: list = field(default_factory=lambda: [1.0])


def loud(x):
    return 3 * torch.tanh(x)


def times(gain):
    return lambda x: gain * x


class Kept(nn.Module):
    """A forward that makes its graph of attributes of every kind."""

    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(64, 8), nn.Linear(8, 3)
        self.gains, self.slopes, self.named = (1.0, 2.0), [1.0, 2.0], {"gain": [1.0]}
        self.act, self.scaled, self.config = F.relu, partial(torch.mul, other=2.0), Config()
        self.space, self.array, self.label = SimpleNamespace(gain=1.0), np.ones(2), None
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        y = self.act(self.linear(x.flatten(1))) * self.gains[0] * self.slopes[0] * self.named["gain"][0]
        y = self.scaled(y) * self.config.gain * self.config.more[0] * self.space.gain * float(self.array[0])
        return self.head(y)


def set_in(container, key, value):
    container[key] = value


CHANGES = {
    "tuple": lambda m: setattr(m, "gains", (5.0, 2.0)),
    "list": lambda m: set_in(m.slopes, 0, 5.0),
    "nested": lambda m: set_in(m.named["gain"], 0, 5.0),
    "function": lambda m: setattr(m, "act", torch.tanh),
    "lambda": lambda m: setattr(m, "act", lambda x: 3 * torch.relu(x)),
    "partial": lambda m: setattr(m, "scaled", partial(torch.mul, other=5.0)),
    "dataclass": lambda m: setattr(m.config, "gain", 5.0),
    "in a dataclass": lambda m: set_in(m.config.more, 0, 5.0),
    "namespace": lambda m: setattr(m.space, "gain", 5.0),
    "array": lambda m: set_in(m.array, 0, 5.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_makes_a_frozen_net_stale(change):
    net = GloRoNet(Kept(), 0.1, SHAPE).eval().freeze()
    x, _ = batch()
    net.certify(x)
    change(net.module)
    with pytest.raises(StaleBoundError, match="call freeze") as caught:
        net.certify(x)
    assert "\n" not in str(caught.value)
    net.freeze().certify(x)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_bounded_anew_otherwise(change):
    net = GloRoNet(Kept(), 0.1, SHAPE).eval()
    x, _ = batch()
    net.certify(x)
    change(net.module)
    torch.testing.assert_close(net.certify(x).logits, net.module(x))


def test_a_counter_makes_nothing_stale():
    net = GloRoNet(Kept(), 0.1, SHAPE).eval().freeze()
    x, _ = batch()
    before = net.certify(x)
    for _ in range(2):
        net.module(x)
        assert torch.equal(net.certify(x).radius, before.radius)
    net.module.label = "another name"
    net.certify(x)
    net.module.gains = (5.0, 2.0)
    net.module(x)
    with pytest.raises(StaleBoundError, match="makes another graph"):
        net.certify(x)


def test_a_counter_that_the_graph_depends_on_does():
    class Twice(Kept):
        def forward(self, x):
            y = super().forward(x)
            return y * 2 if self.calls > 50 else y

    net = GloRoNet(Twice(), 0.1, SHAPE).eval().freeze()
    x, _ = batch()
    net.certify(x)
    net.module.calls = 100
    with pytest.raises(StaleBoundError, match="makes another graph"):
        net.certify(x)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: copy.deepcopy(m).to("cpu")]
)
def test_copies_keep_the_same(duplicate):
    module = Kept()
    module.act = loud
    assert structure(duplicate(module)) == structure(module)
    net = GloRoNet(Kept(), 0.1, SHAPE).eval().freeze()
    x, _ = batch()
    assert torch.equal(duplicate(net).certify(x).radius, net.certify(x).radius)


def test_what_shows_names_no_object():
    module = Kept()
    module.thing, module.itself = object(), [1]
    module.itself.append(module.itself)
    assert " at 0x" not in shown_attributes(module)


def test_functions_of_one_name_are_told_apart():
    module = nn.Module()
    shown = set()
    for function in (F.max_pool1d, F.max_pool2d, lambda x: x, lambda x: 2 * x, *(partial(pow, n) for n in range(2))):
        module.act = function
        shown.add(shown_attributes(module))
    for gain in range(2):
        module.act = lambda x, gain=gain: gain * x
        shown.add(shown_attributes(module))
        module.act = times(gain)
        shown.add(shown_attributes(module))
    assert len(shown) == 10


def test_settings_that_torch_cannot_print_are_shown_all_the_same():
    layer = nn.Conv2d(1, 1, 3)
    printed = shown_settings(layer)
    layer.dilation = 2
    with pytest.raises(TypeError):
        layer.extra_repr()
    assert "'dilation': 2" in shown_settings(layer) != printed
