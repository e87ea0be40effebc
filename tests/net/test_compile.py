"""GloRoNet under torch.compile and torch.export. The backend "aot_eager" traces as any other but compiles nothing."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

from gloro_fast import GloRoNet, architectures, convert
from gloro_fast.errors import ArchitectureError, ConfigError, StaleBoundError
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss, TradesLoss
from gloro_fast.nn import LipschitzConstant, Scale, register_lipschitz_rule

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _fresh(request):
    if "compiled_step" not in request.fixturenames:
        torch._dynamo.reset()


def glorot_net():
    return GloRoNet(architectures.build("2C2F", input_shape=SHAPE, num_classes=5), 0.02, SHAPE)


def batch():
    return torch.rand(16, *SHAPE), torch.randint(5, (16,))


CRITERIA = {
    "cross entropy": CrossEntropyLoss,
    "trades": lambda: TradesLoss(1.5),
    "trades, ce": lambda: TradesLoss(1.5, robust="ce"),
    "emma": EmmaLoss,
    "none": lambda: None,
}


@pytest.fixture(scope="module", params=CRITERIA)
def compiled_step(request):
    """A criterion, a net, the net compiled, the graphs that a compiler is asked for, and a copy of the net."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = glorot_net()
    graphs = CompileCounterWithBackend("aot_eager")
    return (
        CRITERIA[request.param](),
        net,
        torch.compile(net, fullgraph=True, backend=graphs),
        graphs,
        copy.deepcopy(net),
    )


def test_a_training_step_is_one_graph(compiled_step):
    criterion, net, compiled, _, twin = compiled_step
    for _ in range(2):
        x, y = batch()
        if criterion is None:
            loss, expected = compiled(x).square().mean(), twin(x).square().mean()
        else:
            loss, expected = compiled(x, y, criterion), twin(x, y, criterion)
            assert torch.equal(net.batch_statistics.verified, twin.batch_statistics.verified)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected)
    for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)
    for mine, its in zip(net.iterates.vectors(), twin.iterates.vectors(), strict=True):
        torch.testing.assert_close(mine, its)


def test_a_graph_follows_epsilon_and_lambda(compiled_step):
    criterion, net, compiled, graphs, twin = compiled_step
    x, y = batch()
    found, counts = [], []
    for epsilon, lam in ((0.02, 1.5), (0.5, 1.5), (0.07, 4.0), (0.3, 0.25)):
        if criterion is not None:
            criterion.lam = lam
        net.epsilon = twin.epsilon = epsilon
        value, expected = (run(x, y, criterion) if criterion else run(x) for run in (compiled, twin))
        torch.testing.assert_close(value, expected)
        found.append(value.sum().item())
        counts.append(graphs.frame_count)
    assert len(set(found)) == 4
    assert len(set(counts)) == 1  # of the first step


def test_a_layer_replaced_after_compiling_is_seen():
    net = glorot_net()
    compiled = torch.compile(net, backend="aot_eager")
    x, _ = batch()
    compiled(x)
    net.module[0] = type(net.module[0])(1, 16, 4, 2, padding="same")
    torch.testing.assert_close(compiled(x)[:, :5], net.module(x))


def test_training_and_evaluation_in_turn():
    net = glorot_net()
    compiled = torch.compile(net, backend="aot_eager")
    x, y = batch()
    for _ in range(2):
        compiled.train()
        compiled(x, y, CrossEntropyLoss()).backward()
        net.module[0].weight.data.mul_(1.1)
        compiled.eval()
        torch.testing.assert_close(compiled(x), copy.deepcopy(net)(x))


def frozen():
    return glorot_net().eval().freeze()


def compiled_whole(net, x):
    return torch.compile(net, fullgraph=True, backend="aot_eager")


def exported(net, x):
    return torch.export.export(net, (x,)).module()


@pytest.mark.parametrize("trace", [compiled_whole, exported])
def test_a_frozen_net_is_one_graph(trace):
    net = frozen()
    x, _ = batch()
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(trace(net, x)(x), expected)
    assert 0 < (expected.argmax(1) != 5).sum() < 16


def test_a_graph_signs_no_changed_weights():
    net = frozen()
    x, _ = batch()
    with torch.no_grad():
        graph = exported(copy.deepcopy(net), x)
        assert (graph(x).argmax(1) != 5).any()
        weight = next(p for n, p in graph.named_parameters() if n.endswith("0.weight"))
        weight.mul_(1.5)
        assert (graph(x).argmax(1) == 5).all()
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        assert (compiled(x).argmax(1) != 5).any()
        net.module[0].weight.data.mul_(1.5)
        assert (compiled(x).argmax(1) == 5).all()


class Opaque(nn.Module):
    """A layer of which no compiler makes one graph."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return x.clone()


@register_lipschitz_rule(Opaque)
def _opaque(module, input_shape):
    return LipschitzConstant(1.0)


class Louder(nn.Module):
    """A layer whose constant is made of a parameter and of a plain number."""

    def __init__(self):
        super().__init__()
        self.scale, self.gain = nn.Parameter(torch.ones(())), 1.0

    def forward(self, x):
        return x * self.scale * self.gain


@register_lipschitz_rule(Louder)
def _louder(module, input_shape):
    return LipschitzConstant((module.scale * module.gain).abs(), "upper bound")


def layered(*more):
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.ELU(), Scale(1.0), *more
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))


CHANGES = {
    "a slope": lambda m: setattr(m[1], "negative_slope", 50.0),
    "an alpha": lambda m: setattr(m[3], "alpha", 50.0),
    "a dilation": lambda m: (setattr(m[0], "padding", (2, 2)), setattr(m[0], "dilation", (2, 2))),
    "a window": lambda m: setattr(m[2], "kernel_size", 1),
    "a factor": lambda m: setattr(m[4], "factor", 50.0),
    "a forward": lambda m: setattr(m[1], "forward", lambda x: 50 * x),
    "a hook": lambda m: m[1].register_forward_hook(lambda module, args, output: 50 * output),
    "a layer": lambda m: m.__setitem__(3, nn.Tanh()),
}
REFUSED = (StaleBoundError, ArchitectureError)


def refuses_when_compiled(change, *more):
    net = GloRoNet(layered(*more), 0.001, SHAPE).eval().freeze()
    compiled = torch.compile(net, fullgraph=not more, backend="eager")
    x, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x))
        change(net.module)
        # Compiled for the batch that it knows, and for another.
        for images in (x, torch.rand(7, *SHAPE)):
            with pytest.raises(REFUSED) as caught:
                compiled(images)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_compiled_graph_signs_another_structure(change):
    refuses_when_compiled(change)


def test_nor_do_several_graphs_of_one_net():
    refuses_when_compiled(CHANGES["a slope"], Opaque())


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
@pytest.mark.parametrize("change", ["a slope", "a window", "a hook"])
def test_another_structure_is_not_exported(change, strict):
    net = GloRoNet(layered(), 0.001, SHAPE).eval().freeze()
    x, _ = batch()
    CHANGES[change](net.module)
    with torch.no_grad(), pytest.raises(REFUSED):
        torch.export.export(net, (x,), strict=strict)


def test_a_net_that_is_not_frozen_is_not_exported():
    net = GloRoNet(layered(), 0.001, SHAPE).eval()
    with torch.no_grad(), pytest.raises(ConfigError, match="call freeze"):
        torch.export.export(net, (batch()[0],))


def test_a_constant_made_of_a_parameter_and_a_changed_number_is_not_exported():
    net = GloRoNet(layered(Louder()), 0.001, SHAPE).eval().freeze()
    x, _ = batch()
    with torch.no_grad():
        assert (exported(net, x)(x).argmax(1) != 5).any()
        net.module[5].gain = 50.0
        with pytest.raises(StaleBoundError, match="something that its forward may read has changed since; call freeze"):
            exported(net, x)


def test_a_compiled_net_goes_on_when_frozen_again():
    net = GloRoNet(layered(), 0.001, SHAPE).eval().freeze()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    x, _ = batch()
    with torch.no_grad():
        compiled(x)
        # The second time a compiler takes the number for a variable.
        for slope in (0.3, 0.5):
            net.module[1].negative_slope = slope
            with pytest.raises(StaleBoundError, match="module 1 is now"):
                compiled(x)
            net.freeze()
            torch.testing.assert_close(compiled(x), net(x))


def test_a_compiled_certify_finds_the_bound_anew_unless_frozen():
    net = GloRoNet(layered(), 0.001, SHAPE).eval()
    compiled = torch.compile(net.certify, backend="eager")
    x, _ = batch()
    compiled(x)
    net.module[0].weight.data *= 2
    assert torch.equal(compiled(x).radius, net.certify(x).radius)


def test_graphs_of_copies_look_at_the_copies():
    net = GloRoNet(layered(), 0.001, SHAPE).eval().freeze()
    twins = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copy.copy(net)]
    assert len({twin._key for twin in (net, *twins)}) == 4
    with pytest.raises(StaleBoundError, match="compile the net again"):
        torch.ops.gloro_fast.look(torch.ones(1), "net -1")


def test_recorders_that_would_keep_the_constant_are_refused():
    net = frozen()
    x, _ = batch()
    for record in (lambda: torch.jit.trace(net, x), lambda: make_fx(net)(x)):
        with torch.no_grad(), pytest.raises(ConfigError, match=r"use torch\.export\.export") as caught:
            record()
        assert "\n" not in str(caught.value)


class Block(nn.Module):
    """A residual block as users write it."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class SmallResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(inplace=True)
        self.block, self.pool, self.fc = Block(4), nn.AdaptiveAvgPool2d(2), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.block(self.relu(self.stem(x)))), 1))


def small_sequence():
    layers = nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh()
    return nn.Sequential(*layers)


@pytest.fixture(params=[SmallResNet, small_sequence])
def converted(request):
    """A model of a user's, converted: branches, BatchNorm, an odd number of channels, something behind the head."""
    torch.manual_seed(0)
    return GloRoNet(convert(request.param()), 0.01, SHAPE)


def test_a_step_of_what_was_converted_is_one_graph(converted):
    twin = copy.deepcopy(converted)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    x, y = batch()
    steps = []
    for net, run in ((converted, compiled), (twin, twin)):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        loss = run(x, y, TradesLoss(1.0))
        loss.backward()
        optimizer.step()
        steps.append([loss.detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(converted.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "carried",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), lambda net: exported(net, batch()[0])],
    ids=["copied", "pickled", "exported"],
)
def test_what_was_converted_is_carried_on_frozen(converted, carried):
    net = converted.eval().freeze()
    x, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(carried(net)(x), net(x))
