"""Flatten and a dense layer as one step: the same function, without copies of a channels_last batch."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gloro_fast.graph.execution import BiasedMinMax
from gloro_fast.graph.flattening import FlattenedLinear, _ByPosition
from gloro_fast.graph.plan import make_plan
from gloro_fast.nn import MinMax

SHAPE, OUTPUTS = (6, 5, 3), 4


def batch(samples, memory_format=torch.channels_last, dtype=torch.float64):
    return torch.randn((samples, *SHAPE), dtype=dtype).contiguous(memory_format=memory_format)


def moves_columns(y):
    return y.grad_fn is not None and y.grad_fn.name() == "_ByPositionBackward"


def outcome(function, x, parameters):
    x = x.detach().requires_grad_()
    y = function(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *parameters])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("samples", [8, 11])
def test_it_is_what_the_two_layers_compute(samples, bias):
    linear = nn.Linear(90, OUTPUTS, bias=bias).double()
    x = batch(samples)
    wanted = outcome(nn.Sequential(nn.Flatten(), linear), x, linear.parameters())
    step = FlattenedLinear(linear)
    got = outcome(step, x, linear.parameters())
    assert moves_columns(step(x))
    for mine, its in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)
    assert got[1].is_contiguous(memory_format=torch.channels_last)
    assert got[2].is_contiguous()


def test_gradients_of_both_orders():
    linear = nn.Linear(90, 2).double()
    x = batch(4).requires_grad_()

    def function(x, weight, bias):
        return _ByPosition.apply(x, weight, bias)

    inputs = (x, linear.weight, linear.bias)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("samples", "memory_format", "grad"),
    [
        (7, torch.channels_last, True),
        (8, torch.contiguous_format, True),
        (8, torch.channels_last, False),
    ],
    ids=["small batch", "contiguous", "evaluation"],
)
def test_elsewhere_the_bits_are_those_of_the_layers(samples, memory_format, grad):
    linear = nn.Linear(90, OUTPUTS)
    x = batch(samples, memory_format, torch.float32)
    with torch.set_grad_enabled(grad):
        y = FlattenedLinear(linear)(x)
        assert not moves_columns(y)
        assert torch.equal(y, linear(x.flatten(1)))


def test_no_batch_is_copied():
    """Flattening by itself copies it, and MinMax before it would copy the gradient back."""
    linear = nn.Linear(90, OUTPUTS)
    copied = {}
    for name, function in (("layers", nn.Sequential(nn.Flatten(), linear)), ("step", FlattenedLinear(linear))):
        x = batch(64, dtype=torch.float32).requires_grad_()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
            function(x.relu()).sum().backward()
        shapes = [event.input_shapes[0] for event in recorded.events() if event.name == "aten::copy_"]
        copied[name] = sum(shape == [64, *SHAPE] for shape in shapes)
    assert copied == {"layers": 1, "step": 0}


def test_the_graph_has_it_where_nothing_else_reads_the_rows():
    linear = nn.Linear(90, OUTPUTS)
    plan = make_plan(nn.Sequential(nn.Flatten(), linear), SHAPE)
    assert plan.program.chain == (FlattenedLinear(linear),)
    plan = make_plan(nn.Sequential(nn.Flatten(), linear, MinMax()), SHAPE)
    assert plan.program.chain == (BiasedMinMax(FlattenedLinear(linear)),)
    plan = make_plan(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)), SHAPE[:2])
    assert [type(step) for step in plan.program.chain] == [nn.Flatten, nn.Linear]
    plan = make_plan(nn.Sequential(nn.Flatten(2), nn.Linear(15, 4), nn.Flatten()), SHAPE)
    assert [type(step) for step in plan.program.chain] == [nn.Flatten, nn.Linear, nn.Flatten]


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten, self.first, self.second = nn.Flatten(), nn.Linear(90, 4), nn.Linear(90, 4)

    def forward(self, x):
        rows = self.flatten(x)
        return self.first(rows) + self.second(rows)


def test_two_readers_get_rows():
    module = TwoReaders().double()
    plan = make_plan(module, SHAPE)
    assert not any(isinstance(step[0], FlattenedLinear) for step in plan.program.steps)
    x = batch(8)
    torch.testing.assert_close(plan.run(x), module(x), rtol=1e-12, atol=1e-12)
