"""Layers of all kinds in one net: it trains, its bound holds, and torch.compile takes it."""

import copy

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import GroupSort, Householder, Normalize, Scale

SHAPE = (3, 12, 12)


@pytest.fixture
def net():
    module = nn.Sequential(
        Normalize([0.4, 0.5, 0.6], 3 * [0.25]),
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
        nn.Identity(),
        nn.BatchNorm2d(6),
        GroupSort(3),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Dropout(0.2),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(4),
        Householder(4),
        nn.AvgPool2d(3, 2, padding=1),
        nn.PReLU(4),
        nn.PixelShuffle(2),
        nn.Upsample(scale_factor=2),
        nn.AdaptiveAvgPool2d(5),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(25, 8),
        nn.Softplus(),
        Scale(2.0),
        nn.Linear(8, 4),
    )
    return GloRoNet(module, 0.01, SHAPE)


def batch():
    return torch.rand(16, *SHAPE), torch.randint(4, (16,))


def test_it_trains_and_its_bound_holds(net):
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        net(*batch(), CrossEntropyLoss()).backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    net.eval()
    assert net.bound.kind == "upper bound"
    x = torch.rand(200, *SHAPE)
    step = torch.randn_like(x) * 10 ** torch.empty(200, 1, 1, 1).uniform_(-3, 0)
    body = copy.deepcopy(net.module[:-1]).double()
    moved = (body((x + step).double()) - body(x.double())).norm(dim=1)
    assert 0 < (moved / step.double().flatten(1).norm(dim=1)).max() <= net.lipschitz


def test_the_gradient_of_the_bound_reaches_what_was_learned(net):
    net(*batch(), CrossEntropyLoss())
    prelu, norm = net.module[11], net.module[3]
    prelu.weight.data.fill_(-3.0)
    found = torch.autograd.grad(net._training_lipschitz(), [prelu.weight, norm.weight])
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_torch_compile_takes_a_step(net):
    other = copy.deepcopy(net)
    x, y = batch()
    torch.manual_seed(1)
    expected = net(x, y, CrossEntropyLoss())
    torch.manual_seed(1)
    found = torch.compile(other, backend="eager", fullgraph=True)(x, y, CrossEntropyLoss())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
