"""The constant of a graph: known values, merged branches against matrices, heads, and what a step executes."""

import copy
import math
import pickle
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from gloro_fast import GloRoNet
from gloro_fast.bounds.rounding import add_up, root_sum_squares_up
from gloro_fast.errors import StaleBoundError
from gloro_fast.graph.merging import Merged
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import Conv2d, MinMax
from gloro_fast.plan import make_plan

SHAPE = (2, 4, 5)


class Model(nn.Module):
    def __init__(self, body, **layers):
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, x).flatten(1)


def constant(body, **layers):
    net = GloRoNet(Model(body, **layers).double(), 0.1, SHAPE).eval().freeze("torus")
    return net.lipschitz


CONSTANTS = {
    "sum": (lambda m, x: x.relu() + x, 2),
    "three": (lambda m, x: x + x.relu() - x.tanh(), 3),
    "side by side": (lambda m, x: torch.cat((x, x.relu()), 1), 2**0.5),
    "larger of two": (lambda m, x: torch.maximum(x, -x), 2**0.5),
    "largest of two": (lambda m, x: torch.max(x, -x), 2**0.5),
    "smallest of two": (lambda m, x: x.min(-x), 2**0.5),
    "a matrix behind": (lambda m, x: x.transpose(1, 3) @ (m.p.reshape(2, 1) @ m.p.reshape(1, 2)), 10),
    "a copy": (lambda m, x: x.clone().mul_(2), 2),
    "scaled": (lambda m, x: (2 * x).relu() * -1.5 / 4, 0.75),
    "alpha": (lambda m, x: torch.add(x.relu(), x, alpha=-3), 4),
    "broadcast": (lambda m, x: x.relu() + x.amax(3, keepdim=True), 1 + 5**0.5),
    "mean": (lambda m, x: x.mean((2, 3)), 1 / 20**0.5),
    "parameter": (lambda m, x: x * m.p + m.p, 3),
    "parameters computed": (lambda m, x: x / (m.p.abs() + 1), 1 / 2),
    "a constant beside": (lambda m, x: x.relu() + m.p, 1),
    "parts": (lambda m, x: torch.cat((x.chunk(2, 1)[0].relu(), x[:, 1:]), 1), 2**0.5),
    "parts as they are": (lambda m, x: torch.cat(x.split(1, 1), 1), 1),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_that_are_known(case):
    body, value = CONSTANTS[case]
    found = constant(body, p=nn.Parameter(torch.tensor([-3.0, 1.0]).reshape(1, 2, 1, 1)))
    assert value * (1 - 1e-15) <= found <= value * (1 + 1e-6)


def jacobian(function, shape):
    return torch.autograd.functional.jacobian(
        lambda x: function(x[None]).flatten(), torch.zeros(shape, dtype=torch.float64)
    ).flatten(1)


def batch_norm(channels):
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.running_var, 0.1, 3.0)
    nn.init.normal_(layer.weight)
    return layer


def conv(*arguments, **keywords):
    layer = nn.Conv2d(*arguments, **keywords)
    nn.init.normal_(layer.weight)
    return layer


# Each is one linear map of its input; none may be bounded in parts.
LINEAR = {
    "identity and convolution": (lambda m, x: x + m.a(x), {"a": conv(2, 2, 3, padding=1)}),
    "difference": (lambda m, x: m.a(x) - 0.5 * x, {"a": conv(2, 2, 3, padding=1)}),
    "groups": (lambda m, x: x + m.a(x), {"a": conv(2, 2, 3, padding=1, groups=2)}),
    "same": (lambda m, x: x + m.a(x), {"a": Conv2d(2, 2, (2, 4), padding="same")}),
    "dilated": (lambda m, x: x + m.a(x), {"a": conv(2, 2, 3, padding=2, dilation=2)}),
    "two sizes": (
        lambda m, x: m.a(x) + m.b(x) - m.c(x),
        {"a": conv(2, 3, 3, padding=1), "b": conv(2, 3, 1), "c": conv(2, 3, (1, 3), padding=(0, 1))},
    ),
    "stride": (lambda m, x: m.a(x) + m.b(x), {"a": conv(2, 3, 3, 2, padding=1), "b": conv(2, 3, 1, 2)}),
    "BatchNorm behind": (lambda m, x: m.b(m.a(x)), {"a": conv(2, 3, 3), "b": batch_norm(3)}),
    "BatchNorm before": (lambda m, x: m.a(m.b(x)), {"a": conv(2, 4, 3, groups=2), "b": batch_norm(2)}),
    "residual with BatchNorm": (lambda m, x: x + m.b(m.a(x)), {"a": conv(2, 2, 3, padding=1), "b": batch_norm(2)}),
    "both with BatchNorm": (
        lambda m, x: m.c(m.b(m.a(x)) + m.e(m.d(x))),
        {"a": conv(2, 2, 3, padding=1), "b": batch_norm(2), "c": batch_norm(2), "d": conv(2, 2, 1), "e": batch_norm(2)},
    ),
    "a sum of sums": (
        lambda m, x: (x + m.a(x)) + (m.b(x) - x) * 2,
        {"a": conv(2, 2, 3, padding=1), "b": conv(2, 2, 1)},
    ),
    "dense": (lambda m, x: (lambda y: y + m.a(y))(x.flatten(1)), {"a": nn.Linear(40, 40)}),
    "dense over the last dimension": (lambda m, x: m.a(x) - x, {"a": nn.Linear(5, 5)}),
    "F.conv2d": (
        lambda m, x: x + F.conv2d(x, m.w * 2, padding=1),
        {"w": nn.Parameter(torch.randn(2, 2, 3, 3))},
    ),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_branches_are_bounded_as_one_matrix(case):
    body, layers = LINEAR[case]
    module = Model(body, **layers).double().eval()
    plan = make_plan(module, SHAPE)
    (part,) = [part for part in plan.parts if isinstance(part, Merged)]
    exact = torch.linalg.matrix_norm(jacobian(module, SHAPE), 2).item()
    for linear in (part.rule(), part.certified_rule()):
        basis = torch.eye(math.prod(linear.geometry.input_shape), dtype=torch.float64)
        columns = [linear.geometry.apply(linear.weight.detach(), e.reshape(linear.geometry.input_shape)) for e in basis]
        norm = torch.linalg.matrix_norm(torch.stack([c.flatten() for c in columns]), 2).item()
        assert norm == pytest.approx(exact, rel=1e-12)
    assert 0 < part.certified_rule().error < 1e-9 * exact
    net = GloRoNet(module, 0.1, SHAPE).eval().freeze("torus")
    assert exact <= net.lipschitz <= 1.6 * exact  # The torus is loose on images this small.


# Here the branches do not lie on each other, or something stands between them.
APART = {
    "activation": (lambda m, x: x + m.a(x).relu(), {"a": conv(2, 2, 3, padding=1)}),
    "circular": (lambda m, x: x + m.a(x), {"a": conv(2, 2, 3, padding=1, padding_mode="circular")}),
    "transposed": (lambda m, x: m.b(x) + m.a(x), {"a": conv(2, 2, 1), "b": nn.ConvTranspose2d(2, 2, 1)}),
    "two in a row": (lambda m, x: x + m.b(m.a(x)), {"a": conv(2, 2, 1), "b": conv(2, 2, 1)}),
    "dilations": (
        lambda m, x: m.a(x) + m.b(x),
        {"a": conv(2, 2, 3, padding=1), "b": conv(2, 2, 3, padding=2, dilation=2)},
    ),
}


@pytest.mark.parametrize("case", APART)
def test_other_branches_are_added(case):
    body, layers = APART[case]
    module = Model(body, **layers).double().eval()
    plan = make_plan(module, SHAPE)
    assert not any(isinstance(part, Merged) for part in plan.parts)
    x, y = torch.randn(2, 200, *SHAPE, dtype=torch.float64)
    ratio = (module(x) - module(y)).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert 0.1 < ratio.max() <= GloRoNet(module, 0.1, SHAPE).eval().freeze("torus").lipschitz


@pytest.mark.parametrize(
    "terms", [(1.0, 0.1, 0.3), (1e308, 1e308), (1e-320, 1e-310), (3.0,), (0.0, 0.0), (1e-200, 1.0)]
)
def test_sums_are_rounded_up(terms):
    exact = sum(map(Fraction, terms))
    assert math.isinf(add_up(*terms)) or Fraction(add_up(*terms)) >= exact
    squares = sum(Fraction(t) ** 2 for t in terms)
    root = root_sum_squares_up(*terms)
    assert math.isinf(root) or Fraction(root) ** 2 >= squares
    assert root <= 1.0001 * math.hypot(*terms) + 1e-300
    assert root_sum_squares_up(*terms, math.nan) == math.inf


class Residual(nn.Module):
    """Blocks, a branch that ends in its own activation, a layer used twice, and a mode that changes the graph."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (
            conv(2, 4, 3, padding=1),
            conv(4, 4, 3, padding=1),
            conv(4, 4, 3, padding=1),
        )
        self.norm, self.minmax, self.head = batch_norm(4), MinMax(), nn.Linear(80, 3)
        self.auxiliary = nn.Linear(80, 3)
        self.gain = 0.5

    def forward(self, x):
        x = self.minmax(self.stem(x))
        x = x + self.minmax(self.norm(self.first(x)))
        x = self.minmax(x + self.second(x) * self.gain)
        logits = self.head(x.flatten(1))
        if self.training:
            logits = logits + 0.1 * self.auxiliary(x.flatten(1))
        return logits.view(-1, 3)


def residual_net():
    torch.manual_seed(0)
    return GloRoNet(Residual(), 0.01, SHAPE)


def batch():
    return torch.rand(16, *SHAPE), torch.randint(3, (16,))


def test_the_head_is_found_through_reshapes():
    net = residual_net().eval()
    assert net._plan.head.dense.module is net.module.head
    x, _ = batch()
    torch.testing.assert_close(net(x)[:, :3], net.module(x))


def test_the_graph_of_training_is_executed_in_training():
    net = residual_net()
    x, y = batch()
    wanted = copy.deepcopy(net.module)(x)
    torch.testing.assert_close(net(x)[:, :3], wanted)
    net(x, y, CrossEntropyLoss()).backward()
    assert all(p.grad is not None for p in net.module.parameters())
    assert net._training_plan.head is None
    # One part of the model in another mode is another graph.
    net.module.training = False
    torch.testing.assert_close(net(x)[:, :3], copy.deepcopy(net.module)(x))
    assert net._training_plan.head.dense.module is net.module.head


def test_attributes_that_the_graph_was_made_with_are_watched():
    net = residual_net().double().eval().freeze()
    x = batch()[0].double()
    net.certify(x)
    net.module.gain = 100.0
    with pytest.raises(StaleBoundError, match=r"its forward makes another graph since, from mul\(\) on"):
        net.certify(x)
    net.unfreeze()
    # The two may add up in different orders. That leaves logits in the thousands, sums of up to 80 terms, less than
    # 1e-8 apart in float64, within the tolerance of 1e-7; in float32 it can be more than the tolerance of 1e-5.
    torch.testing.assert_close(net(x)[:, :3], net.module(x))


def test_a_net_says_which_constants_its_margins_have():
    assert "K_ij = K ||w_i - w_j||, w_i the rows of head" in repr(residual_net())
    flat = GloRoNet(Model(lambda m, x: x.relu()), 0.1, SHAPE)
    assert "K_ij = sqrt(2) K, K of the whole net" in repr(flat)


def test_state_dict_keys_are_those_of_the_module():
    net = residual_net()
    keys = {key.removeprefix("module.") for key in net.state_dict() if not key.startswith("iterates.")}
    assert keys == set(Residual().state_dict())


class OwnWeight(nn.Module):
    """A weight of its own, parametrized, and tensors that are neither parameters nor buffers."""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(16, 40)), nn.Linear(16, 3)
        self.std, self.dropout = torch.tensor([0.5, 2.0]).view(1, 2, 1, 1), nn.Dropout(0.3)

    def forward(self, x):
        x = (x - torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)) / self.std
        return self.head(self.dropout(F.linear(x.flatten(1), self.weight)).relu())


def by_a_parametrization(module):
    module.parametrizations.weight.original0.data.mul_(2)


def by_a_plain_tensor(module):
    module.std[0, 0] = 0.1


@pytest.mark.parametrize("change", [by_a_parametrization, by_a_plain_tensor])
def test_weights_of_a_traced_module_are_watched_and_trained(change):
    module = parametrizations.weight_norm(OwnWeight())
    net = GloRoNet(module, 0.01, SHAPE)
    x, y = batch()
    net(x, y, CrossEntropyLoss()).backward()
    assert all(p.grad is not None for p in module.parameters())
    before = net.eval().freeze("torus").lipschitz
    assert before == pytest.approx(2 * torch.linalg.matrix_norm(module.weight, 2).item(), rel=1e-3)
    change(module)
    with pytest.raises(StaleBoundError, match="has changed"):
        net.certify(x)
    assert net.freeze("torus").lipschitz > 1.9 * before
    torch.testing.assert_close(net(x)[:, :3], module(x))


def test_a_layer_called_twice_has_a_constant_for_each_shape():
    module = Model(lambda m, x: m.a(m.pool(m.a(x))), a=conv(2, 2, 3, padding=1), pool=nn.MaxPool2d(2))
    net = GloRoNet(module, 0.1, SHAPE)
    assert [tuple(v.shape) for v in net.iterates.vectors()] == [(2, 4, 5), (2, 2, 2)]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_whole_and_apart(duplicate):
    net = residual_net().eval().freeze()
    x, _ = batch()
    twin = duplicate(net)
    assert torch.equal(twin.certify(x).radius, net.certify(x).radius)
    twin.module.first.weight.data.mul_(2)
    net.certify(x)
    with pytest.raises(StaleBoundError):
        twin.certify(x)
    twin.unfreeze().train()(x).sum().backward()
    assert net.module.first.weight.grad is None


def test_one_graph_for_the_compiler():
    torch._dynamo.reset()
    net = residual_net()
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    x, y = batch()
    for _ in range(2):
        loss, expected = compiled(x, y, CrossEntropyLoss()), twin(x, y, CrossEntropyLoss())
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected)
    for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-5)


def test_a_frozen_net_is_exported():
    net = residual_net().eval().freeze()
    x, _ = batch()
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)
    assert (expected.argmax(1) != 3).any()
