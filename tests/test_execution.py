"""The steps that are executed compute what the layers compute, gradients included."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gloro_fast.execution import BiasedMinMax, fuse
from gloro_fast.nn import Conv2d, MinMax

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


@pytest.mark.parametrize("case", [*FUSED, *APART])
def test_steps_compute_what_the_layers_compute(case):
    layer, shape = {**FUSED, **APART}[case]
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(shape, dtype=torch.float64)
    steps = fuse([layer, MinMax()], [layer(x).ndim, x.ndim])
    assert (len(steps) == 1) == (case in FUSED)

    def run(x):
        for step in steps:
            x = step(x)
        return x

    got, wanted = outcome(run, layer, x), outcome(nn.Sequential(layer, MinMax()), layer, x)
    for mine, its in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


def test_only_minmax_right_behind_takes_the_bias():
    linear = nn.Linear(4, 4)
    steps = fuse([linear, nn.ReLU(), MinMax(), linear, MinMax(), linear], [2] * 6)
    assert [type(step) for step in steps] == [nn.Linear, nn.ReLU, MinMax, BiasedMinMax, nn.Linear]
