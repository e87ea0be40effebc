"""The net that is certified is the net that runs: what a forward asks, reads and enters comes out as in the module."""

import argparse
import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_nets import batch as images_and_labels
from torch import nn
from torch.func import grad, jacrev, vmap
from torch.nn.utils import parametrize

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, StaleBoundError
from gloro_fast.graph import agreement
from gloro_fast.graph.plan import make_plan
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.rules import registry

SHAPE = (3, 4, 4)


class Model(nn.Module):
    def __init__(self, body, **layers):
        super().__init__()
        self.body, self.head = body, nn.Linear(48, 3)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.head(self.body(self, x).flatten(1))


def agrees(module, sizes=(1, 2, 5, 16, 33)):
    net = GloRoNet(module, 0.1, SHAPE).eval()
    for count in sizes:
        x = torch.rand(count, *SHAPE)
        torch.testing.assert_close(net(x)[:, :3], net.module(x))
    return net


def normalized(m, x):
    return (x - 0.5) / 0.2 if isinstance(x, torch.Tensor) else x


ACCEPTED = {
    "isinstance": (normalized, 5),
    "is_tensor": (lambda m, x: x * 3 if torch.is_tensor(x) else x, 3),
    "hasattr": (lambda m, x: x * 3 if hasattr(x, "shape") and not hasattr(x, "node") else x, 3),
    "getattr": (lambda m, x: x * getattr(x, "factor", 3.0), 3),
    "dtype": (lambda m, x: x * 3 if x.dtype == torch.float32 and x.is_floating_point() else x, 3),
    "sizes": (lambda m, x: x * 3 if isinstance(x.shape[1], int) and x.shape[-1] > 3 and x.ndim == 4 else x, 3),
    "a loop over a size": (lambda m, x: torch.cat([x[:, c : c + 1] * 3 for c in range(x.shape[1])], 1), 3 * 3**0.5),
    "len": (lambda m, x: x.reshape(len(x), -1) * 3, 3),
    "a number of images below": (lambda m, x: x * 3 / (1 + x.shape[0] // 4), 3),
    "assert": (lambda m, x: [x * 3, None][bool(x.shape[1] != 3)], 3),
    "numbers of NumPy": (lambda m, x: np.float64(1.5) * x * np.int64(2), 3),
    "MaxMin": (lambda m, x: x.reshape(len(x), 3, 2, 8).max(2)[0].repeat(1, 1, 2) * 3, 3 * 2**0.5),
    "windows": (lambda m, x: F.unfold(x, 2, stride=2) * 3, 3),
    "reflected": (lambda m, x: F.pad(x, (1, 1, 0, 0), mode="reflect")[..., 1:-1] * 3, 3 * 2**0.5),
    "a shape like another": (lambda m, x: torch.zeros_like(x) + x * 3, 3),
    "coordinates": (lambda m, x: x * 3 + torch.linspace(0, 1, 4).expand(x.shape[0], 1, 4, 4), 3),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_a_forward_asks_is_answered_as_by_a_batch(case):
    body, constant = ACCEPTED[case]
    assert constant * (1 - 1e-6) <= agrees(Model(body)).lipschitz <= constant * (1 + 1e-6)


def test_context_managers_are_kept():
    class Contexts(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.low, self.head = nn.Linear(48, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.frozen(x.flatten(1)).relu()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = self.low(x)
                with torch.autocast("cpu", enabled=False):
                    x = x.float() * 0.3
                x = F.linear(x, self.head.weight)
            return x.float()

    module = Contexts()
    net = agrees(module)
    x = torch.rand(4, *SHAPE)
    assert not torch.allclose(
        net(x)[:, :3], F.linear(module.low(module.frozen(x.flatten(1)).relu()) * 0.3, module.head.weight), atol=1e-7
    )
    net.train()(x)[:, 0].sum().backward()
    assert module.low.weight.grad is not None
    assert module.frozen.weight.grad is None or not module.frozen.weight.grad.any()


class Boxed(nn.Module):
    def __init__(self, box, read):
        super().__init__()
        self.head, self.box, self.read = nn.Linear(48, 3), box, read

    def forward(self, x):
        return self.head(x.flatten(1)) * self.read(self.box)


class Slotted:
    __slots__ = ("gain",)

    def __init__(self):
        self.gain = 1.0


class OfClass:
    gain = 1.0


GLOBAL = {"gain": 1.0}
gain_of_module = 1.0


def closed_over():
    gain = 1.0

    def read(box):
        return gain

    def change(box):
        nonlocal gain
        gain = 3.0

    return None, read, change


def set_global(box):
    global gain_of_module
    gain_of_module = 3.0


BOXES = {
    "dict": lambda: ({"gain": 1.0}, lambda b: b["gain"], lambda b: b.update(gain=3.0)),
    "list": lambda: ([1.0], lambda b: b[0], lambda b: b.__setitem__(0, 3.0)),
    "nested": lambda: ({"a": [(1.0, [1.0])]}, lambda b: b["a"][0][1][0], lambda b: b["a"][0][1].__setitem__(0, 3.0)),
    "Namespace": lambda: (argparse.Namespace(gain=1.0), lambda b: b.gain, lambda b: setattr(b, "gain", 3.0)),
    "slots": lambda: (Slotted(), lambda b: b.gain, lambda b: setattr(b, "gain", 3.0)),
    "class": lambda: (OfClass, lambda b: b.gain, lambda b: setattr(b, "gain", 3.0)),
    "array": lambda: (np.ones(2), lambda b: float(b[1]), lambda b: b.__setitem__(1, 3.0)),
    "tensor": lambda: ({"t": torch.tensor(1.0)}, lambda b: b["t"], lambda b: b["t"].mul_(3)),
    "another tensor": lambda: ([torch.tensor(1.0)], lambda b: b[0], lambda b: b.__setitem__(0, torch.tensor(3.0))),
    "closure": closed_over,
    "global dict": lambda: (None, lambda b: GLOBAL["gain"], lambda b: GLOBAL.update(gain=3.0)),
    "global": lambda: (None, lambda b: gain_of_module, set_global),
}


@pytest.mark.parametrize("mode", ["train", "eval", "frozen"])
@pytest.mark.parametrize("case", BOXES)
def test_what_a_forward_reads_is_watched(case, mode, monkeypatch):
    monkeypatch.setitem(GLOBAL, "gain", 1.0)
    monkeypatch.setitem(globals(), "gain_of_module", 1.0)
    monkeypatch.setattr(OfClass, "gain", 1.0)
    box, read, change = BOXES[case]()
    net = GloRoNet(Boxed(box, read), 0.1, SHAPE).train(mode == "train")
    x = torch.rand(2, *SHAPE)
    before = net(x)[:, :3]
    if mode == "frozen":
        net.freeze()
    change(box)
    if mode == "frozen":
        with pytest.raises(StaleBoundError):
            net(x)
        with pytest.raises(StaleBoundError):
            net.certify(x)
    else:
        torch.testing.assert_close(net(x)[:, :3], net.module(x))
        assert not torch.allclose(net(x)[:, :3], before, rtol=1e-2)


def test_a_forward_replaced_on_a_class_is_noticed(monkeypatch):
    net = GloRoNet(Model(lambda m, x: x), 0.1, SHAPE).eval().freeze()
    x = torch.rand(2, *SHAPE)
    net.certify(x)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: -F.linear(x, self.weight, self.bias))
    for call in (lambda: net.certify(x), lambda: net(x), lambda: GloRoNet(Model(lambda m, x: x), 0.1, SHAPE)):
        with pytest.raises(ArchitectureError, match=r"is a Linear, whose forward was replaced by .* put torch's back"):
            call()
    monkeypatch.undo()
    net.certify(x)


class DropConnect(nn.Module):
    def forward(self, weight):
        return F.dropout(weight, 0.5, training=True)


class Moving(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, weight):
        self.factor.mul_(1.5)
        return weight * self.factor


class PythonNoise(nn.Module):
    def forward(self, weight):
        return weight * random.uniform(0.5, 1.0)


@pytest.mark.parametrize("noise", [DropConnect, PythonNoise])
def test_parametrizations_that_draw_are_refused(noise):
    layer = nn.Linear(48, 48)
    parametrize.register_parametrization(layer, "weight", noise())
    with pytest.raises(ArchitectureError, match=r"^the module draws random numbers in evaluation"):
        GloRoNet(Model(lambda m, x: m.layer(x.flatten(1)), layer=layer), 0.1, SHAPE)


def test_buffers_that_move_in_evaluation_are_refused():
    layer = nn.Linear(48, 48)
    parametrize.register_parametrization(layer, "weight", Moving())
    model = Model(lambda m, x: m.layer(x.flatten(1)), layer=layer)
    before = layer.parametrizations.weight[0].factor.clone()
    with pytest.raises(ArchitectureError, match=r"^the module changes its buffer .*factor in evaluation"):
        GloRoNet(model, 0.1, SHAPE)
    assert torch.equal(layer.parametrizations.weight[0].factor, before)


def test_a_layer_that_stays_in_training_is_refused():
    class Stubborn(Model):
        def train(self, mode=True):
            super().train(mode)
            self.norm.train(True)
            return self

    with pytest.raises(ArchitectureError, match=r"^norm \(BatchNorm2d\) is in training mode after eval\(\)"):
        GloRoNet(Stubborn(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(3)), 0.1, SHAPE)


def test_trying_leaves_no_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.head, self.calls = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(48, 3), 0

        def forward(self, x):
            self.calls += 1
            self.last = x
            return self.head(self.drop(self.norm(x)).flatten(1))

    module = Counting()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    call, apply = nn.Module.__call__, torch.autograd.Function.__dict__["apply"]
    GloRoNet(module, 0.1, SHAPE)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert (module.calls, hasattr(module, "last"), module.training, module.norm.training) == (0, False, True, True)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.random.get_state()[1].tolist() == generators[2]  # noqa: NPY002
    assert nn.Module.__call__ is call
    assert torch.autograd.Function.__dict__["apply"] is apply


def test_a_counter_of_batches_goes_on_in_a_subclass_of_batch_norm():
    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    module = Model(lambda m, x: m.norm(x), norm=Doubled(3))
    net = GloRoNet(module, 0.1, SHAPE)
    x, twin = torch.rand(8, *SHAPE), nn.BatchNorm2d(3)
    for _ in range(2):
        net(x)
        twin(x)
    assert module.norm.num_batches_tracked == 2
    torch.testing.assert_close(module.norm.running_mean, twin.running_mean)


@pytest.mark.parametrize("kind", [nn.Linear, type("Renamed", (nn.Linear,), {})])
def test_a_subclass_that_inherits_forward_is_its_parent(kind):
    net = agrees(nn.Sequential(nn.Flatten(), kind(48, 8), nn.ReLU(), nn.Linear(8, 3)))
    assert [part.name for part in net._plan.parts] == ["0", "1", "2"]
    assert type(net._plan.parts[1]).__name__ == "Layer"


@pytest.mark.parametrize("name", ["timm.layers.drop.DropPath", "torchvision.ops.stochastic_depth.StochasticDepth"])
def test_paths_that_are_dropped_in_training(name, monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    class DropPath(nn.Module):
        def forward(self, x):
            return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.5) * 2 if self.training else x

    drop = DropPath()
    module = Model(lambda m, x: x + m.drop(x), drop=drop)
    with pytest.raises(ArchitectureError, match="draws random numbers in its forward"):
        GloRoNet(module, 0.1, SHAPE)
    DropPath.__module__, _, DropPath.__qualname__ = name.rpartition(".")
    net = agrees(module)
    assert net.lipschitz == pytest.approx(2, rel=1e-9)
    twin = copy.deepcopy(module).train()
    x = torch.rand(16, *SHAPE)
    net.train()(x)
    torch.manual_seed(1)
    wanted = twin(x)
    torch.manual_seed(1)
    torch.testing.assert_close(net(x)[:, :3], wanted)


def test_a_subclass_that_computes_more_is_followed():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, 4 * weight, self.bias)

    net = agrees(Model(lambda m, x: m.conv(x), conv=Standardized(3, 3, 3, padding=1)))
    weight = (net.module.conv.weight - net.module.conv.weight.mean((1, 2, 3), keepdim=True)).detach() * 4
    plain = nn.Conv2d(3, 3, 3, padding=1)
    plain.weight.data = weight
    assert net.lipschitz == pytest.approx(agrees(Model(lambda m, x: m.conv(x), conv=plain)).lipschitz, rel=1e-6)


def test_on_the_meta_device_and_then_on_another():
    with torch.device("meta"):
        net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)), 0.1, SHAPE)
    other = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)), 0.1, SHAPE)
    net.to_empty(device="cpu").load_state_dict(other.state_dict())
    x = torch.rand(4, *SHAPE)
    assert torch.equal(net.eval().certify(x).radius, other.eval().certify(x).radius)
    net.train()(x, torch.tensor([0, 1, 2, 0]), CrossEntropyLoss()).backward()


@pytest.mark.parametrize("bounded", [False, True])
def test_transforms_of_torch_func(bounded):
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), 0.1, SHAPE).eval()
    x = torch.rand(2, *SHAPE)
    if bounded:
        net.certify(x)
    assert grad(lambda image: net(image)[0, 0])(x[:1]).shape == (1, *SHAPE)
    assert jacrev(net)(x[:1]).shape == (1, 4, 1, *SHAPE)
    assert vmap(lambda image: net(image[None])[0])(x).shape == (2, 4)


def test_log_softmax_at_the_end_is_left_out():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    net = GloRoNet(nn.Sequential(*plain, nn.LogSoftmax(dim=1)), 0.1, SHAPE).eval()
    x = torch.rand(4, *SHAPE)
    assert torch.equal(net.certify(x).radius, GloRoNet(plain, 0.1, SHAPE).eval().certify(x).radius)
    torch.testing.assert_close(net(x)[:, :3].log_softmax(1), net.module(x))


def test_a_norm_over_tokens_beside_a_dense_layer():
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    nn.init.uniform_(module[1].running_var, 0.5, 2.0)
    net = GloRoNet(module, 0.1, (4, 6)).eval()
    before = copy.deepcopy(module[:2]).double()
    matrix = torch.autograd.functional.jacobian(lambda x: before(x[None]).flatten(), torch.zeros(4, 6).double())
    assert net.lipschitz >= torch.linalg.matrix_norm(matrix.flatten(1), 2)


def test_a_graph_that_differs_is_found_at_its_layer(monkeypatch):
    """A planted bug: an operation that the graph has left out."""
    images, _ = images_and_labels()
    module = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 8), nn.ReLU(), nn.Linear(8, 3))
    run = agreement._run

    def without_relu(of, call, x, training):
        return run(of, call if call is of else lambda x: module[3](module[1](module[0](x))), x, training)

    monkeypatch.setattr(agreement, "_run", without_relu)
    with pytest.raises(ArchitectureError, match="computes something else than the module for 1 images"):
        make_plan(module, tuple(images.shape[1:]))
