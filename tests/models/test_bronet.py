"""BRONet, and the orthogonal neck that it shares with a LiResNet: constants of 1 after training, certificates."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet, architectures
from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.losses import LogitAnnealingLoss
from gloro_fast.models.bronet import parse
from gloro_fast.nn import BROConv2d, Conv2d, ResidualConv2d

SHAPE = (1, 8, 8)


def test_depth_and_width_are_in_the_name():
    assert parse("BRONet-12x512") == (12, 512)
    assert parse("BRONet-12x0") is None
    net = architectures.build("BRONet-3x8", input_shape=(3, 32, 32), num_classes=10)
    # Counted by hand: stem, reflectors of rank 4, neck of 4 x 4 pixels, eight dense layers, head; then the biases.
    weights = 8 * 75 + 3 * 8 * 4 * 9 + 8 * 128 + 32 * 128 + 8 * 32 * 32 + 10 * 32
    assert sum(parameter.numel() for parameter in net.parameters()) == weights + 5 * 8 + 9 * 32 + 10
    with pytest.raises(ConfigError, match="'BRONet-12x512'"):
        architectures.build("BRONet-12", input_shape=SHAPE, num_classes=3)


def test_images_must_not_be_smaller_than_the_kernel():
    with pytest.raises(ArchitectureError, match="2 x 2 pixels"):
        GloRoNet(architectures.build("BRONet-1x4", input_shape=(1, 4, 4), num_classes=3), 0.1, (1, 4, 4))


def linear_maps(net):
    """Return the unrolled float64 matrices of all layers with weights before the head."""
    found, x = [], torch.zeros(1, *SHAPE, dtype=torch.float64)
    for layer in copy.deepcopy(net.module[:-1]).double():
        if isinstance(layer, Conv2d | BROConv2d | nn.Linear):
            basis = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])
            found.append((layer(basis) - layer(0 * basis)).flatten(1).mT)
        x = layer(x)
    return found


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("BRONet-2x4", {BROConv2d: 2}), ("LiResNet-2x4-Cholesky-LLN", {ResidualConv2d: 2})],
)
def test_what_is_orthogonal_stays_so_in_training(name, kinds):
    torch.manual_seed(0)
    net = GloRoNet(architectures.build(name, input_shape=SHAPE, num_classes=3), 0.1, SHAPE)
    assert kinds.items() <= Counter(type(layer) for layer in net.module).items()
    labels = torch.arange(48) % 3
    x = (0.7 * torch.rand(3, *SHAPE)[labels] + 0.3 * torch.rand(48, *SHAPE)).clamp(0, 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    start, losses = copy.deepcopy(net.state_dict()), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = net(x, labels, LogitAnnealingLoss(offset=0.3))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert not any(torch.equal(start[key], parameter) for key, parameter in net.named_parameters())

    net.eval().freeze("tight")
    bounds = [layer.value for layer in net.bound.layers if layer.method != "rule"]
    exact = [torch.linalg.svdvals(matrix) for matrix in linear_maps(net)]
    # Stem, blocks, neck and its dense layer, eight more.
    assert len(bounds) == len(exact) == 1 + 2 + 2 + 8
    for bound, values in zip(bounds, exact, strict=True):
        assert values[0] <= bound < values[0] * (1 + 1e-5)
    place = 1 if name.startswith("BRONet") else 3
    assert all(1 <= bound < 1 + 1e-5 for bound in bounds[place:])
    for values in exact[place:]:
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-6)
    rows = net.module[-1].weight.norm(dim=1)
    torch.testing.assert_close(rows, torch.ones(3))
    certificate = net.certify(x)
    assert (certificate.certified & (certificate.prediction == labels)).double().mean() > 0.5
