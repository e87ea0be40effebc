"""Holes that were found by trying to break the capture, each as a test."""

import functools
import gc
import threading

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, GloroFastError, StaleBoundError
from gloro_fast.graph import plan, reading
from gloro_fast.rules.registry import known_type

SHAPE = (4,)


class Model(nn.Module):
    def __init__(self, body, **attributes):
        super().__init__()
        self.body, self.head = body, nn.Linear(4, 3)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.head(self.body(self, x))


def net_of(body, **attributes):
    return GloRoNet(Model(body, **attributes), 0.1, SHAPE).eval()


REFUSED = {
    "a clamp that repeats the image": lambda m, x: x[:, None].clamp(min=torch.full((1, 3, 4), -1e9)).amax(1),
    "a place in the batch": lambda m, x: x + torch.ones(x.shape[0], 1).cumsum(0),
    "a place in the batch, by its neighbours": lambda m, x: x + (torch.ones(x.shape[0], 4) * 2).roll(1, 0),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case):
    with pytest.raises(GloroFastError):
        net_of(REFUSED[case])


def test_a_view_in_another_memory_format_is_a_view_all_the_same():
    def overwritten(m, x):
        h = x.reshape(-1, 2, 2, 1) * 1.0
        y = h.permute(0, 2, 3, 1).reshape(x.shape[0], -1)
        y.mul_(100.0)
        return y + h.flatten(1)

    with pytest.raises(ArchitectureError, match="writes over"):
        net_of(overwritten)


def louder(self, gain, x):
    return gain * x


class ByDescriptor(nn.Identity):
    forward = functools.partialmethod(louder, 100.0)


class OfClass(nn.Identity):
    @classmethod
    def forward(cls, x):
        return 100.0 * x


class Mixin(nn.modules.batchnorm._BatchNorm):
    def forward(self, x):
        return 100.0 * x


class BehindTheBase(nn.BatchNorm1d, Mixin):
    pass


@pytest.mark.parametrize("layer", [ByDescriptor(), OfClass(), BehindTheBase(4)])
def test_a_forward_of_any_kind_is_one(layer):
    assert known_type(layer) is type(layer)
    try:
        net = net_of(lambda m, x: m.layer(x), layer=layer)
    except GloroFastError:
        return
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x)[:, :3], net.module(x))
    assert net.lipschitz >= 100


def test_parameters_that_are_no_longer_tied_are_two():
    def body(m, x):
        return torch.nn.functional.linear(torch.nn.functional.linear(x, m.a), m.b)

    module = Model(body, a=nn.Parameter(torch.randn(4, 4)))
    module.b = module.a
    net, x = GloRoNet(module, 0.1, SHAPE).eval(), torch.randn(5, 4)
    net(x)
    module.b = nn.Parameter(torch.randn(4, 4))
    torch.testing.assert_close(net(x)[:, :3], module(x))
    torch.testing.assert_close(net.train()(x)[:, :3], module(x))


def test_parameters_that_nothing_trains_are_refused():
    weights = [nn.Parameter(torch.ones(4))]
    with pytest.raises(ArchitectureError, match="uses a parameter that is no attribute of a module"):
        net_of(lambda m, x: x * weights[0])


def test_a_weight_made_in_a_hook_of_ones_own_is_refused():
    layer = nn.Linear(4, 4)
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.weight = weight
    layer.register_forward_pre_hook(lambda module, given: setattr(module, "weight", 2 * weight))
    with pytest.raises(ArchitectureError, match="computes its weight in a hook"):
        net_of(lambda m, x: m.layer(x), layer=layer)


def test_what_is_computed_once_and_kept_has_values():
    @functools.cache
    def positions(count):
        return torch.linspace(0, 1, count)

    net, x = net_of(lambda m, x: x + positions(x.shape[1])), torch.randn(5, 4)
    torch.testing.assert_close(net(x)[:, :3], net.module(x))
    assert type(positions(4)) is torch.Tensor


def test_a_call_of_modules_that_is_replaced_is_noticed(monkeypatch):
    net, x, call = net_of(lambda m, x: x).freeze(), torch.randn(5, 4), nn.Module.__call__
    net.certify(x)
    monkeypatch.setattr(nn.Module, "__call__", lambda module, *given: 3 * call(module, *given))
    with pytest.raises(ArchitectureError, match=r"nn\.Module\.__call__ was replaced by .*put torch's back"):
        net.certify(x)


GAIN = 1.0


class Static(nn.Module):
    @staticmethod
    def gain():
        return GAIN

    def forward(self, x):
        return x * self.gain()


def test_a_global_that_a_static_method_reads_is_watched(monkeypatch):
    net, x = net_of(lambda m, x: m.static(x), static=Static()).freeze(), torch.randn(5, 4)
    net.certify(x)
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    with pytest.raises(StaleBoundError):
        net.certify(x)


def test_attributes_that_no_forward_reads_may_change(monkeypatch):
    module = Model(lambda m, x: x)
    net, x, captures = GloRoNet(module, 0.1, SHAPE), torch.randn(5, 4), []
    capture = reading.capture
    monkeypatch.setattr(reading, "capture", lambda *given: captures.append(1) or capture(*given))
    for step in range(4):
        module.unread_step, module.unread_log = step, [step] * step
        net.train()(x).sum().backward()
        net.eval().certify(x)
    assert not captures
    assert plan.make_plan(module, SHAPE)
    assert captures


def test_another_thread_may_draw_meanwhile():
    done = threading.Event()

    def draw():
        while not done.is_set():
            torch.rand(3)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(5):
            net_of(lambda m, x: x.relu())
    finally:
        done.set()
        thread.join(timeout=60)
        gc.collect()


def test_shapes_that_do_not_fit_are_one_line(capfd):
    with pytest.raises(ArchitectureError) as caught:
        GloRoNet(nn.Sequential(nn.Linear(5, 3)), 0.1, (4,))
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err
