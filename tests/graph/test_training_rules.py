"""Rules that are asked once: whatever is done to a net between two steps, the next is that of a net that asks them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from gloro_fast import GloRoNet
from gloro_fast.graph.training_rules import TrainingRules
from gloro_fast.losses import TradesLoss
from gloro_fast.nn import Conv2d, LipschitzConstant, MinMax, register_lipschitz_rule
from gloro_fast.rules import registry as rules_module
from gloro_fast.rules.linear import convolution

SHAPE, CLASSES = (2, 8, 8), 3


class Convolution(nn.Conv2d):
    """A user's, whose attributes the net does not watch one by one."""


register_lipschitz_rule(Convolution)(convolution)


def build() -> GloRoNet:
    torch.manual_seed(0)
    module = nn.Sequential(
        Conv2d(2, 4, 3, padding="same"),
        MinMax(),
        Convolution(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(4, momentum=0.0),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.PReLU(init=0.5),
        nn.Linear(6, CLASSES),
    )
    return GloRoNet(module, 0.3, SHAPE).train()


def step(net: GloRoNet) -> list[torch.Tensor]:
    """Loss, K, and all gradients."""
    generator = torch.Generator().manual_seed(1)
    parameter = next(net.parameters())
    images = torch.rand(4, *SHAPE, generator=generator).to(parameter.dtype)
    net.zero_grad()
    loss = net(images, torch.arange(4) % CLASSES, TradesLoss(1.0))
    loss.backward()
    assert net.batch_statistics is not None
    found = [loss.detach(), net.batch_statistics.lipschitz]
    return found + [p.grad.clone() for p in net.parameters() if p.grad is not None]


def set_to(layer: nn.Module, name: str, value: object) -> None:
    setattr(layer, name, value)


def data_of_another_shape(net: GloRoNet) -> None:
    net.module[4].weight.data = torch.ones(4, 4, 1, 1) / 3
    net.module[4].padding = (0, 0)


def frozen_slope(net: GloRoNet) -> None:
    net.module[9].requires_grad_(False)
    step(net)
    net.module[9].weight.data.fill_(3.0)


CHANGES: dict[str, Callable[[GloRoNet], object]] = {
    "nothing": lambda net: None,
    "an optimizer's step": lambda net: torch.optim.SGD(net.parameters(), lr=0.1).step(),
    "another weight": lambda net: set_to(net.module[4], "weight", nn.Parameter(torch.ones(4, 4, 3, 3) / 7)),
    "another weight of the head": lambda net: set_to(net.module[10], "weight", nn.Parameter(torch.eye(3, 6))),
    "another layer": lambda net: net.module.__setitem__(4, nn.Conv2d(4, 4, 5, padding=2).requires_grad_()),
    "another input": lambda net: net.module.__setitem__(5, nn.MaxPool2d(2)),
    "other data": lambda net: set_to(net.module[4].weight, "data", torch.ones(4, 4, 3, 3) / 5),
    "data of another shape": data_of_another_shape,
    "data of another shape alone": lambda net: set_to(net.module[0].weight, "data", torch.ones(4, 2, 5, 5) / 50),
    "channels_last": lambda net: net.to(memory_format=torch.channels_last),
    "float64": lambda net: net.double(),
    "one weight in float64 and back": lambda net: (net.double(), net.float()),
    "stride": lambda net: (
        set_to(net.module[4], "stride", (2, 2)), net.module.__setitem__(5, nn.Identity()),
    ),
    "kernel and padding": lambda net: (set_to(net.module[4], "padding", (2, 2)), set_to(net.module[4], "dilation", 2)),
    "a user's padding": lambda net: (set_to(net.module[2], "padding", (2, 2)), set_to(net.module[2], "dilation", 2)),
    "a parametrization": lambda net: orthogonal(net.module[8]),
    "weight norm": lambda net: weight_norm(net.module[4]),
    "a slope": lambda net: net.module[9].weight.data.fill_(2.0),
    "a slope without gradient": frozen_slope,
    "running variance": lambda net: net.module[6].running_var.fill_(0.25),
    "a frozen layer": lambda net: net.module[4].requires_grad_(False),
    "loaded weights": lambda net: net.load_state_dict({k: 0.9 * v for k, v in net.state_dict().items()}),
}  # fmt: skip


def outcome(net: GloRoNet) -> list[torch.Tensor] | str:
    try:
        return step(net)
    except Exception as error:  # refused: of the same kind then
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("change", CHANGES)
def test_a_step_is_that_of_a_net_that_asks_all_rules(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    kept = build()
    step(kept)
    CHANGES[change](kept)
    found = [outcome(kept), outcome(kept)]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRules, "now", lambda self: [part.rule() for part in self._parts])
        asked = build()
        step(asked)
        CHANGES[change](asked)
        expected = [outcome(asked), outcome(asked)]
    for mine, its in zip(found, expected, strict=True):
        if isinstance(its, str):
            assert mine == its
        else:
            assert not isinstance(mine, str), mine
            assert len(mine) == len(its)
            assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))


def test_rules_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build()
    step(net)
    step(net)
    asked: list[type] = []
    right = rules_module.lipschitz_rule
    monkeypatch.setattr("gloro_fast.graph.node.lipschitz_rule", lambda name, module, shape: (
        asked.append(type(module)), right(name, module, shape),
    )[1])  # fmt: skip
    step(net)
    # Not all attributes of a user's class are watched, and the numbers of the others change.
    assert set(asked) == {Convolution, nn.PReLU, nn.BatchNorm2d}


def test_a_rule_that_is_registered_between_steps_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_module, "_RULES", dict(rules_module._RULES))
    net, same = build(), build()
    step(net)
    step(same)
    register_lipschitz_rule(MinMax)(lambda module, shape: LipschitzConstant(4.0))
    found = step(net)[1]
    with monkeypatch.context() as patch:
        patch.setattr(rules_module, "_RULES", {**rules_module._RULES})
        patch.setattr(TrainingRules, "now", lambda self: [part.rule() for part in self._parts])
        plain = step(same)[1]
    assert torch.equal(found, plain)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_read_their_own_weights(copied: Callable[[GloRoNet], GloRoNet]) -> None:
    net = build()
    step(net)
    twin = copied(net)
    with torch.no_grad():
        twin.module[4].weight.mul_(3.0)
        twin.module[10].weight.mul_(2.0)
    fresh = build()
    step(fresh)
    with torch.no_grad():
        fresh.module[4].weight.mul_(3.0)
        fresh.module[10].weight.mul_(2.0)
    assert all(torch.equal(a, b) for a, b in zip(step(twin), step(fresh), strict=True))


def test_functional_call_gives_its_own_weights() -> None:
    net = build()
    step(net)
    tensors = {name: 1.5 * p.detach() for name, p in net.named_parameters()}
    images, labels = torch.ones(2, *SHAPE) / 2, torch.zeros(2, dtype=torch.int64)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    found = torch.func.functional_call(net, tensors, (images, labels, TradesLoss(1.0)))
    other = build()
    other.load_state_dict({**before, **tensors})
    assert torch.equal(found, other(images, labels, TradesLoss(1.0)))
