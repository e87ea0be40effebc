from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gloro_fast import GloRoNet, convert
from gloro_fast.errors import StaleBoundError
from gloro_fast.net.snapshot import Snapshot
from gloro_fast.nn import MinMax, register_lipschitz_rule
from gloro_fast.rules import registry
from gloro_fast.rules.registry import LipschitzConstant


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), MinMax(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


def taken(module: nn.Module) -> Snapshot:
    snapshot = Snapshot.of(module)
    assert snapshot is not None
    return snapshot


def test_nothing_has_changed():
    module = network()
    assert taken(module).still_holds(module)
    with torch.no_grad():
        module(torch.zeros(1, 1, 4, 4))
    assert taken(module).still_holds(module)


def next_float(module):
    module[0].weight.data.view(-1)[3:4].copy_(torch.nextafter(module[0].weight.data.view(-1)[3:4], torch.tensor([9.0])))


def transpose_in_place(module):
    module[4].weight.data = module[4].weight.data.T


def rename(module):
    module._modules = {f"layer{key}": child for key, child in module._modules.items()}


CHANGES = {
    "one bit of a weight": next_float,
    "one bit of a buffer": lambda m: m[2].running_var.view(torch.int32).add_(1),
    "through NumPy": lambda m: m[4].bias.detach().numpy().__setitem__(0, 7.0),
    "another shape": transpose_in_place,
    "another type": lambda m: m.double(),
    "another parameter with the same values": lambda m: setattr(m[4], "bias", nn.Parameter(m[4].bias.detach().clone())),
    "a parameter removed": lambda m: m[0].register_parameter("bias", None),
    "a setting": lambda m: setattr(m[0], "padding", (0, 0)),
    "a number": lambda m: setattr(m[2], "eps", 0.5),
    "a layer replaced": lambda m: m.__setitem__(1, nn.ReLU().eval()),
    "a layer added": lambda m: m.append(nn.Identity().eval()),
    "layers renamed": rename,
    "a forward of its own": lambda m: setattr(m[1], "forward", lambda x: x),
    "another class": lambda m: setattr(m[1], "__class__", nn.Tanh),
    "a forward hook": lambda m: m[1].register_forward_hook(lambda *_: None),
    "a forward pre-hook": lambda m: m[1].register_forward_pre_hook(lambda *_: None),
    "a parametrization": lambda m: parametrizations.weight_norm(m[4]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_shows(change):
    module = network()
    snapshot = taken(module)
    change(module)
    assert not snapshot.still_holds(module)


def test_a_hook_of_all_modules_shows():
    module = network()
    snapshot = taken(module)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not snapshot.still_holds(module)
    finally:
        handle.remove()
    assert snapshot.still_holds(module)


def test_another_network_is_not_it():
    module = network()
    assert not taken(module).still_holds(copy.deepcopy(module))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factors = (2.0,)

    def forward(self, x):
        return x * self.factors[0]


@register_lipschitz_rule(Scale)
def _scale(module: Scale, input_shape: tuple[int, ...]) -> LipschitzConstant:
    return LipschitzConstant(module.factors[0])


class Holder(nn.Sequential):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.factors = [torch.ones(())]


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(Scale(), nn.Linear(2, 2)),
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(2, 2))),
        Holder(nn.Linear(2, 2)),
    ],
    ids=["a rule of a user's own", "a parametrization", "a list of tensors"],
)
def test_where_a_change_might_not_show_there_is_none(module):
    assert Snapshot.of(module) is None


@pytest.fixture
def own_rules(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))


def of_a_user(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    return LipschitzConstant(1.0, "upper bound")


@pytest.mark.usefixtures("own_rules")
def test_a_users_rule_for_a_layer_of_torch_may_read_anything():
    module = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))
    assert Snapshot.of(module) is not None
    register_lipschitz_rule(nn.LayerNorm)(of_a_user)
    assert Snapshot.of(module) is None
    register_lipschitz_rule(nn.LayerNorm)(functools.wraps(registry.registered_rule(nn.ReLU))(of_a_user))
    assert Snapshot.of(module) is None


@pytest.mark.usefixtures("own_rules")
def test_outside_state_that_a_users_rule_reads_is_seen():
    slope = [1.0]
    register_lipschitz_rule(nn.LayerNorm)(lambda module, shape: LipschitzConstant(slope[0], "upper bound"))
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3)), 0.1, (1, 4, 4)).eval().freeze()
    net.certify(torch.rand(2, 1, 4, 4))
    slope[0] = 100.0
    with pytest.raises(StaleBoundError, match="the rule of 1"):
        net.certify(torch.rand(2, 1, 4, 4))


@pytest.mark.usefixtures("own_rules")
def test_a_rule_registered_since_shows():
    module = network()
    snapshot = taken(module)
    register_lipschitz_rule(MinMax)(of_a_user)
    assert not snapshot.still_holds(module)


def test_a_layer_that_a_function_stands_for_shows():
    module, called = network(), nn.LeakyReLU(0.1)
    snapshot = Snapshot.of(module, [called])
    assert snapshot is not None
    assert snapshot.still_holds(module)
    called.negative_slope = 50.0
    assert not snapshot.still_holds(module)


def test_converted_models_and_padding_same_have_one():
    module = convert(nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.LeakyReLU(0.1))).eval()
    snapshot = taken(module)
    assert snapshot.still_holds(module)
    module[1].original.negative_slope = 0.5
    assert not snapshot.still_holds(module)
    snapshot = taken(module)
    module[0]._reversed_padding_repeated_twice[0] = 7
    assert not snapshot.still_holds(module)


class Keeper(nn.Sequential):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.gains = {"first": [1.0, 2.0], "second": (3.0, {4.0})}
        self.act = nn.functional.relu


KEPT_CHANGES = {
    "in a list": lambda m: m.gains["first"].__setitem__(0, 5.0),
    "longer": lambda m: m.gains["first"].append(5.0),
    "in a dict": lambda m: m.gains.update(second=5.0),
    "in a set": lambda m: m.gains["second"][1].add(5.0),
    "a function": lambda m: setattr(m, "act", torch.tanh),
}


@pytest.mark.parametrize("change", KEPT_CHANGES.values(), ids=KEPT_CHANGES)
def test_a_change_within_containers_shows(change):
    module = Keeper(nn.Linear(2, 2))
    snapshot = taken(module)
    assert snapshot.still_holds(module)
    change(module)
    assert not snapshot.still_holds(module)


def test_rules_are_not_applied_again_until_something_changes(monkeypatch):
    net = GloRoNet(network(), 0.1, (1, 4, 4)).eval().freeze("power")
    x = torch.rand(2, 1, 4, 4)
    calls = []
    original = type(net._plan).rules
    monkeypatch.setattr(type(net._plan), "rules", lambda plan: calls.append(1) or original(plan))
    net.certify(x)
    assert not calls
    net.module[0].weight = nn.Parameter(net.module[0].weight.detach().clone())  # the same bits
    net.certify(x)
    looked = len(calls)
    assert looked
    net.certify(x)
    assert len(calls) == looked


def test_a_copy_of_a_net_looks_at_itself():
    net = GloRoNet(network(), 0.1, (1, 4, 4)).eval().freeze("power")
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert not twin._signed.snapshot.still_holds(twin.module)
        twin.certify(torch.rand(2, 1, 4, 4))
        assert twin._signed.snapshot.still_holds(twin.module)
        assert not twin._signed.snapshot.still_holds(net.module)
