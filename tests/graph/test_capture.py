"""Tracing leaves everything else as it was, and follows what a forward writes over."""

import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, UnknownLayerError
from gloro_fast.graph.capture import capture
from gloro_fast.graph.plan import make_plan

SHAPE = (2, 3, 3)


class Model(nn.Module):
    """A convolution, ``body`` of what it gives, and a dense head."""

    def __init__(self, body):
        super().__init__()
        self.body, self.conv, self.head = body, nn.Conv2d(2, 2, 1), nn.Linear(18, 3)
        self.gain = nn.Parameter(torch.full((1, 2, 1, 1), 2.0))

    def forward(self, x):
        return self.head(self.body(self, self.conv(x)).flatten(1))


def augmented(m, h):
    h += 1.0
    h *= 3.0
    h -= m.gain
    h /= 2.0
    return h


def of_a_copy(m, h):
    other = h.clone()
    other *= 3.0
    return h + other


def of_numbers(m, h):
    channels = h.shape[1]
    channels *= 9
    channels //= 2
    return h.reshape(h.shape[0], 2, channels)


@pytest.mark.parametrize("body", [augmented, of_a_copy, of_numbers])
def test_augmented_assignments_run_as_written(body):
    module = Model(body).eval()
    x = torch.randn(4, *SHAPE)
    assert torch.equal(make_plan(module, SHAPE).run(x), module(x))


def test_an_augmented_assignment_writes_over_its_tensor():
    def in_place(m, h):
        h *= 3.0
        return h

    plan = make_plan(Model(in_place).eval(), SHAPE)
    assert [node.name for node in plan.nodes if node.overwrites] == ["mul_()"]


def through_an_alias(m, h):
    other = h
    h *= 3.0
    return other + h


def without_using_the_result(m, h):
    torch.relu_(h)
    return h + 1.0


@pytest.mark.parametrize("body", [through_an_alias, without_using_the_result])
def test_another_name_of_what_is_written_over_is_the_same_tensor(body):
    module = Model(body).eval()
    x = torch.randn(4, *SHAPE)
    assert torch.equal(make_plan(module, SHAPE).run(x), module(x))


def through_a_view(m, h):
    part = h[:, :1]
    h += 1.0
    return h + part


def into_a_view(m, h):
    h[:, :1].mul_(2.0)
    return h


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (through_a_view, "add_() writes over slice(), which add() reads afterwards"),
        (into_a_view, "mul_() writes over conv, which flatten() reads afterwards"),
    ],
)
def test_views_of_what_is_written_over_are_refused(body, words):
    with pytest.raises(ArchitectureError) as caught:
        GloRoNet(Model(body), 0.1, SHAPE)
    assert str(caught.value) == f"{words}; set inplace=False, or compute a new tensor"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data", r"^the forward sets the \.data of a tensor, unseen by a graph"),
        ("real", r"^copy_\(\) is a function that writes into a tensor"),
        ("imag", "imag is not implemented for tensors with non-complex dtypes"),
    ],
)
def test_values_set_through_attributes_are_refused(name, words):
    def body(m, h):
        setattr(h, name, h * 2)
        return h

    with pytest.raises((ArchitectureError, UnknownLayerError), match=words):
        GloRoNet(Model(body), 0.1, SHAPE)


def parameter_itself(m, h):
    gain = m.gain
    gain *= 2.0
    return h * gain


def parameter_by_images(m, h):
    gain = m.gain.expand(h.shape[0], 2, 3, 3)
    gain *= h
    return gain


def made_of_a_parameter(m, h):
    gain = m.gain.abs()
    gain += 1.0
    return h * gain


def within_a_function(m, h):
    return h * torch.nn.functional.relu(m.gain, inplace=True)


@pytest.mark.parametrize("body", [parameter_itself, parameter_by_images, made_of_a_parameter, within_a_function])
def test_parameters_are_neither_written_over_nor_tried_so(body):
    module = Model(body)
    nn.init.constant_(module.gain, -2.0)
    with pytest.raises((ArchitectureError, TypeError)):
        GloRoNet(module, 0.1, SHAPE)
    assert (module.gain == -2.0).all()


class Keeping(nn.Module):
    """A model that keeps what it computes."""

    def __init__(self):
        super().__init__()
        self.head, self.calls, self.seen, self.by_name = nn.Linear(18, 3), 0, [[]], {"last": None}

    def forward(self, x):
        self.features = x.flatten(1)
        self.calls += 1
        self.seen[0].append(self.features)
        self.by_name["last"] = self.features
        return self.head(self.features)


def test_a_module_keeps_nothing_of_the_trace():
    module = nn.Sequential(Keeping())
    net = GloRoNet(module, 0.1, SHAPE)
    kept = module[0]
    assert (kept.calls, kept.seen, kept.by_name) == (0, [[]], {"last": None})
    assert not hasattr(kept, "features")
    x = torch.rand(2, *SHAPE)
    assert torch.equal(pickle.loads(pickle.dumps(net)).eval()(x), net.eval()(x))


def test_a_module_keeps_nothing_of_a_trace_that_fails():
    class Failing(Keeping):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else self.head(self.features)

    class Late(Keeping):
        def forward(self, x):
            return x.unknown(super().forward(x))

    for module in (Failing(), Late()):
        with pytest.raises((ArchitectureError, TypeError)):
            GloRoNet(module, 0.1, SHAPE)
        assert (module.calls, module.seen, module.by_name) == (0, [[]], {"last": None})


@pytest.mark.parametrize("make", [nn.Identity, lambda: nn.Parameter(torch.ones(3))])
def test_layers_made_in_the_forward_are_refused(make):
    class Making(nn.Module):
        def forward(self, x):
            self.made = make()
            return x

    module = nn.Sequential(nn.Flatten(), Making(), nn.Linear(18, 3))
    with pytest.raises(ArchitectureError) as caught:
        GloRoNet(module, 0.1, SHAPE)
    assert str(caught.value) == (
        "1 (Making) sets made, which is or was a layer, parameter or buffer, in its forward; set it in __init__"
    )


def test_random_numbers_are_refused_before_they_are_drawn_even_if_the_forward_goes_on():
    class Stubborn(nn.Module):
        def forward(self, x):
            try:
                return x + torch.rand(1)
            except Exception:
                return x

    module = nn.Sequential(nn.Flatten(), Stubborn(), nn.Linear(18, 3))
    before = torch.get_rng_state()
    with pytest.raises(ArchitectureError, match="draws random numbers in its forward"):
        GloRoNet(module, 0.1, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


class Elsewhere(nn.Module):
    """Has another thread do something while it is traced."""

    def __init__(self, do):
        super().__init__()
        self.head, self.do = nn.Linear(18, 3), do

    def forward(self, x):
        thread = threading.Thread(target=self.do)
        thread.start()
        thread.join(timeout=60)
        return self.head(x.flatten(1))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_other_threads_draw_and_call_modules_meanwhile():
    other, results = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), []
    x = torch.rand(3, 2)

    def work():
        torch.rand(3)
        results.append(other(x))
        results.append(Double.apply(x))

    graph = capture(Elsewhere(work), torch.zeros(1, *SHAPE)).graph
    assert torch.equal(results[0], other(x))
    assert torch.equal(results[1], 2 * x)
    assert [str(node.target) for node in graph.nodes].count("gloro_fast.whole.default") == 1


def test_one_trace_at_a_time():
    inside, most, lock = 0, 0, threading.Lock()

    class Counting(nn.Module):
        def forward(self, x):
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.05)
            with lock:
                inside -= 1
            return x * 2

    threads = [threading.Thread(target=capture, args=(Counting(), torch.zeros(1, 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert most == 1


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.int64(2)])
@pytest.mark.parametrize("join", [lambda h, n: h * n, lambda h, n: n * h, lambda h, n: h / n, lambda h, n: n - h])
def test_numbers_of_numpy_are_numbers(number, join):
    module = Model(lambda m, h: join(h, number)).eval()
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(make_plan(module, SHAPE).run(x), module(x))
