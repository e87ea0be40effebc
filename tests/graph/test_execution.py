"""The steps that are executed compute what the layers compute, gradients included."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gloro_fast.graph.execution import BiasedMinMax
from gloro_fast.graph.plan import make_plan
from gloro_fast.nn import Conv2d, MinMax
from gloro_fast.ops.minmax_inplace import minmax_

IMAGES = (3, 4, 7, 6)
FUSED = {
    "stock convolution": (nn.Conv2d(4, 6, 3, 2, padding=1), IMAGES),
    "stock convolution, same": (nn.Conv2d(4, 6, 3, padding="same"), IMAGES),
    "convolution, same": (Conv2d(4, 6, 4, 2, padding="same"), IMAGES),
    "convolution": (Conv2d(4, 6, 3, groups=2), IMAGES),
    "dense": (nn.Linear(5, 8), (3, 5)),
    "parametrized": (parametrizations.weight_norm(nn.Linear(5, 8)), (3, 5)),
}
APART = {
    "no bias": (nn.Linear(5, 8, bias=False), (3, 5)),
    "dense over the last of three dimensions": (nn.Linear(5, 8), (3, 4, 5)),
    "no linear layer": (nn.ReLU(), IMAGES),
}


def outcome(function, layer, x):
    x = x.clone().requires_grad_()
    y = function(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


def kinds(plan):
    return [type(operation) if isinstance(operation, nn.Module) else operation for operation, *_ in plan.program.steps]


@pytest.mark.parametrize("case", [*FUSED, *APART])
def test_steps_compute_what_the_layers_compute(case):
    layer, shape = {**FUSED, **APART}[case]
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(shape, dtype=torch.float64)
    module = nn.Sequential(layer, MinMax(), nn.Flatten())
    plan = make_plan(module.double(), shape[1:])
    assert any(isinstance(step, BiasedMinMax) for step in plan.program.chain) == (case in FUSED)
    got, wanted = outcome(plan.run, layer, x), outcome(module, layer, x)
    for mine, its in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


class WritesBetween(nn.Module):
    """Something writes over what the linear layer has read, before MinMax comes to its result."""

    def __init__(self, overwrite):
        super().__init__()
        self.first, self.linear, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.minmax, self.overwrite = MinMax(), overwrite

    def forward(self, x):
        h = self.first(x)
        y = self.linear(h)
        changed = self.overwrite(h)
        return self.head(self.minmax(y) + changed)


class WritesBetweenFlattenAndLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.flatten, self.linear = nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(8, 8)
        self.minmax, self.other = MinMax(), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        h = self.conv(x)
        rows = self.flatten(h)
        side = self.other(x).mul_(3.0)
        y = self.linear(rows)
        side = side.relu_()
        return self.minmax(y) + side.flatten(1)


@pytest.mark.parametrize(
    "module",
    [
        WritesBetween(lambda h: h.mul_(100.0)),
        WritesBetween(torch.relu_),
        WritesBetween(nn.ReLU(inplace=True)),
        WritesBetween(MinMax(inplace=True)),
        WritesBetweenFlattenAndLinear(),
    ],
    ids=["mul_", "relu_", "ReLU", "MinMax", "behind Flatten"],
)
def test_no_layer_waits_until_its_input_is_overwritten(module):
    module = module.double().eval()
    shape = (2, 2, 2) if isinstance(module, WritesBetweenFlattenAndLinear) else (6,)
    x = torch.randn(16, *shape, dtype=torch.float64)
    plan = make_plan(module, shape)
    with torch.no_grad():
        torch.testing.assert_close(plan.run(x), module(x), rtol=1e-12, atol=1e-12)
    assert not any(isinstance(step[0], BiasedMinMax) for step in plan.program.steps)


def test_only_minmax_right_behind_takes_the_bias():
    linear = nn.Linear(4, 4)
    plan = make_plan(nn.Sequential(linear, nn.ReLU(), MinMax(), linear, MinMax(), nn.Linear(4, 4)), (4,))
    assert [type(step) for step in plan.program.chain] == [nn.Linear, nn.ReLU, MinMax, BiasedMinMax, nn.Linear]


class Branches(nn.Module):
    """One convolution whose output has one reader, and one whose output has two."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.minmax = nn.BatchNorm2d(4), MinMax()

    def forward(self, x):
        y = self.minmax(self.first(x))
        z = self.second(y)
        w = self.minmax(self.norm(z) + y)
        return (self.minmax(z) + w + z).flatten(1)


def test_only_what_nobody_else_reads_is_written_over():
    module = Branches().double().eval()
    nn.init.uniform_(module.norm.running_var, 0.5, 2.0)
    plan = make_plan(module, IMAGES[1:])
    assert [isinstance(step[0], BiasedMinMax) for step in plan.program.steps].count(True) == 1
    assert kinds(plan).count(minmax_) == 1  # Of the sum; the second convolution has three readers.
    assert kinds(plan).count(MinMax) == 1
    x = torch.randn(IMAGES, dtype=torch.float64)
    for mine, its in zip(outcome(plan.run, module, x), outcome(module, module, x), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


def test_values_are_let_go_as_soon_as_nobody_reads_them():
    plan = make_plan(Branches().eval(), IMAGES[1:])
    # y, z and two of the sum at most.
    assert plan.program.slots <= 4
    emptied = [slot for *_, slots in plan.program.steps for slot in slots]
    assert emptied
