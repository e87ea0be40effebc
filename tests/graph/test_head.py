"""Heads: which constants margins get, that they hold, that they are the smallest known, and that training has them."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss
from gloro_fast.nn import LipschitzConstant, MinMax, Scale, register_lipschitz_rule
from gloro_fast.rules import registry

SHAPE, CLASSES = (5,), 4


class Tail(nn.Module):
    """A dense layer, and something behind it."""

    def __init__(self, body, **layers):
        super().__init__()
        self.body, self.fc = body, nn.Linear(5, CLASSES)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, self.fc(x))


def used(norm):
    nn.init.uniform_(norm.running_var, 0.2, 2.0)
    nn.init.normal_(norm.weight)
    return norm


def scales(*shape):
    return nn.Parameter(torch.randn(*shape))


# What follows multiplies each logit by a number: margins are as exact as without it.
LINEAR = {
    "a number": lambda: Tail(lambda m, z: (1 - z) * 0.3 / 7),
    "a scale": lambda: Tail(lambda m, z: m.scale(z), scale=Scale(-2.5)),
    "parameters": lambda: Tail(lambda m, z: z * m.p + m.p, p=scales(CLASSES)),
    "a quotient": lambda: Tail(lambda m, z: z / m.p, p=scales(1, CLASSES)),
    "BatchNorm": lambda: Tail(lambda m, z: m.norm(z), norm=used(nn.BatchNorm1d(CLASSES))),
    "BatchNorm of images": lambda: Tail(
        lambda m, z: m.norm(z.reshape(-1, CLASSES, 1, 1)).flatten(1), norm=used(nn.BatchNorm2d(CLASSES))
    ),
    "dropout": lambda: Tail(lambda m, z: m.dropout(z), dropout=nn.Dropout()),
    "several": lambda: Tail(lambda m, z: -(m.norm(z) * m.p), norm=used(nn.BatchNorm1d(CLASSES)), p=scales(CLASSES)),
}
CURVED = {
    "ReLU": lambda: Tail(lambda m, z: z.relu()),
    "tanh": lambda: Tail(lambda m, z: torch.tanh(z) * 3),
    "sigmoid": lambda: Tail(lambda m, z: m.act(z), act=nn.Sigmoid()),
    "GELU": lambda: Tail(lambda m, z: F.gelu(z)),
    "PReLU": lambda: Tail(lambda m, z: m.act(z), act=nn.PReLU(CLASSES)),
    "clamp": lambda: Tail(lambda m, z: (z * m.p).clamp(-1, 1), p=scales(CLASSES)),
    "abs": lambda: Tail(lambda m, z: z.abs()),
    "BatchNorm and sine": lambda: Tail(lambda m, z: torch.sin(m.norm(z)), norm=used(nn.BatchNorm1d(CLASSES))),
}


def bounded(module):
    return GloRoNet(module.double(), 0.1, SHAPE).eval().freeze("cholesky")


def constants(net):
    return net.lipschitz * net.difference_bounds


def gradients(net, x):
    """||gradient of f_i - f_j|| at each x, (m, m, B)."""
    x = x.clone().requires_grad_()
    logits = net.module(x)
    rows = [torch.autograd.grad(logits[:, i].sum(), x, retain_graph=True)[0] for i in range(CLASSES)]
    return torch.stack([torch.stack([(a - b).norm(dim=1) for b in rows]) for a in rows])


@pytest.mark.parametrize("case", LINEAR)
def test_numbers_behind_the_head_are_taken_into_its_rows(case):
    torch.manual_seed(1)
    net = bounded(LINEAR[case]())
    exact = gradients(net, torch.zeros(1, *SHAPE, dtype=torch.float64))[:, :, 0]
    found = constants(net)
    assert net.lipschitz == 1.0
    assert (found >= exact * (1 - 1e-14)).all()
    assert (found <= exact * (1 + 1e-12) + 1e-14).all()
    assert net.margin_form.startswith("K_ij = K ||w_i - w_j||, w_i the rows of fc as scaled by ")


@pytest.mark.parametrize("case", CURVED)
def test_the_constants_of_other_heads_hold_and_are_the_smallest_known(case):
    torch.manual_seed(2)
    net = bounded(CURVED[case]())
    found = constants(net)
    x = torch.randn(4000, *SHAPE, dtype=torch.float64) * 3
    x[:8] *= 1e-4
    assert (gradients(net, x).amax(dim=2) <= found * (1 + 1e-12)).all()
    step = torch.randn_like(x) * torch.logspace(-4, 1, len(x), dtype=x.dtype)[:, None]
    moved = ((net.module(x + step) - net.module(x)) / step.norm(dim=1, keepdim=True)).detach()
    for i, j in itertools.permutations(range(CLASSES), 2):
        assert (moved[:, i] - moved[:, j]).abs().max() <= found[i, j] * (1 + 1e-11)
    rows = net.module.fc.weight.detach()
    for other in net._plan.head._factors():
        rows = rows * (other.detach()[:, None] if isinstance(other, torch.Tensor) and other.ndim else other)
    each = rows.norm(dim=1)
    assert (found <= (each[:, None] + each) * (1 + 1e-12)).all()
    assert (found <= math.sqrt(2) * torch.linalg.matrix_norm(rows, 2) * (1 + 1e-12)).all()
    assert "K_ij = K max ||w_i +- w_j|| <= K_i + K_j, w_i the rows of fc times the slopes of " in repr(net)


def test_with_slopes_of_both_signs_they_are_exact():
    net = bounded(CURVED["abs"]())
    w = net.module.fc.weight
    with torch.no_grad():
        net.module.fc.bias.zero_()
        # Points at which logits i and j have any signs, so that f_j - f_i has every gradient +- w_j +- w_i.
        pairs = itertools.product(range(CLASSES), range(CLASSES), (1.0, -1.0))
        targets = [torch.zeros(CLASSES, dtype=w.dtype).index_fill(0, torch.tensor([i]), 1.0) for i in range(CLASSES)]
        x = torch.stack([torch.linalg.pinv(w) @ (targets[i] + sign * targets[j]) for i, j, sign in pairs if i != j])
    net.freeze("cholesky")
    reached, found = gradients(net, x).amax(dim=2), constants(net)
    assert (found >= reached * (1 - 1e-14)).all()
    assert (found <= reached * (1 + 1e-12)).all()


@pytest.mark.parametrize("case", [*LINEAR, *CURVED])
def test_training_has_the_same_constants_with_gradients(case):
    torch.manual_seed(3)
    module = ({**LINEAR, **CURVED})[case]().double()
    net = GloRoNet(module, 0.1, SHAPE)
    x, y = torch.rand(8, *SHAPE, dtype=torch.float64), torch.randint(CLASSES, (8,))
    lipschitz, differences = net._training_margin(x)[1:]
    torch.testing.assert_close(lipschitz * differences, constants(net), rtol=1e-12, atol=1e-14)
    for criterion in (CrossEntropyLoss(), EmmaLoss()):
        net.zero_grad()
        net(x, y, criterion).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    (gradient,) = torch.autograd.grad(net._training_margin(x)[2].sum(), module.fc.weight)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    "body",
    [lambda m, z: m.act(z), lambda m, z: z + z.tanh(), lambda m, z: z.softmax(1), lambda m, z: z.flip(1)],
    ids=["MinMax", "sum", "softmax", "flipped"],
)
@pytest.mark.filterwarnings("ignore:the module ends in a Softmax")
def test_where_logits_are_mixed_margins_have_the_constant_of_the_whole(body):
    net = bounded(Tail(body, act=MinMax()))
    assert net._plan.head is None
    assert "K_ij = sqrt(2) K, K of the whole net" in repr(net)
    off = ~torch.eye(CLASSES, dtype=torch.bool)
    assert ((net.difference_bounds[off] >= math.sqrt(2)) & (net.difference_bounds[off] < 1.4142136)).all()
    x = torch.randn(2000, *SHAPE, dtype=torch.float64)
    assert (gradients(net, x).amax(dim=2) <= constants(net) * (1 + 1e-12)).all()


def test_margins_of_the_whole_can_be_asked_for():
    module = nn.Sequential(nn.Linear(5, CLASSES))
    net = GloRoNet(module, 0.1, SHAPE, margins="whole").eval()
    assert net._plan.head is None
    assert net.lipschitz >= torch.linalg.matrix_norm(module[0].weight.double(), 2)
    with pytest.raises(ConfigError, match="margins is 'sum'; choose 'rows' or 'whole'"):
        GloRoNet(module, 0.1, SHAPE, margins="sum")


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 5))

    def forward(self, x):
        return F.linear(x.relu(), self.weight * 2).tanh()


def test_a_dense_layer_called_as_a_function_is_a_head():
    net = bounded(Functional())
    assert net.lipschitz == 1.0
    w = 2 * net.module.weight.detach()
    expected = torch.maximum(torch.cdist(w, w), torch.cdist(w, -w)).fill_diagonal_(0)
    torch.testing.assert_close(net.difference_bounds, expected, rtol=1e-7, atol=1e-7)
    assert "the rows of linear() times the slopes of tanh()" in net.margin_form


@pytest.mark.parametrize("shape", [(2, 4), (1, 4)])
def test_a_dense_layer_of_several_rows_is_no_head(shape):
    net = GloRoNet(nn.Sequential(nn.Linear(4, 4), nn.Flatten()), 0.1, shape).eval()
    assert net.margin_form.startswith("K_ij = K ||w_i - w_j||" if shape == (1, 4) else "K_ij = sqrt(2) K")
    assert net.difference_bounds.shape == (net.num_classes, net.num_classes)
    assert len(net.certify(torch.rand(3, *shape)).radius) == 3


def test_a_shared_layer_is_no_head_with_something_behind_it():
    shared = nn.Linear(CLASSES, CLASSES)
    with pytest.raises(ArchitectureError, match="give the head its own"):
        GloRoNet(nn.Sequential(nn.Linear(5, CLASSES), shared, nn.ReLU(), shared), 0.1, SHAPE)
    assert GloRoNet(nn.Sequential(nn.Linear(5, CLASSES), shared, nn.ReLU(), shared, nn.ReLU()), 0.1, SHAPE)


def test_an_estimate_behind_the_head_is_repeated(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    class Curve(nn.Module):
        def forward(self, x):
            return 2 * torch.sin(x)

    register_lipschitz_rule(Curve)(lambda module, shape: LipschitzConstant(2.0, "estimate", per_element=True))
    net = bounded(nn.Sequential(nn.Linear(5, CLASSES), Curve()))
    assert net.bound.kind == "estimate"
    assert net.certify(torch.rand(2, *SHAPE, dtype=torch.float64)).method == "cholesky (estimate)"
