"""LiResNet and EMMA: the net by name, and training it."""

from collections import Counter

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet, architectures
from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.losses import EmmaLoss
from gloro_fast.models.liresnet import liresnet, parse
from gloro_fast.nn import MinMax, ResidualConv2d

SHAPE = (1, 8, 8)


def test_depth_and_width_are_in_the_name():
    assert parse("LiResNet-12x512") == (12, 512, False, False)
    assert parse("LiResNet-12x512-LLN") == (12, 512, True, False)
    assert parse("LiResNet-12x512-Cholesky") == (12, 512, False, True)
    assert parse("LiResNet-12x512-Cholesky-LLN") == (12, 512, True, True)
    assert parse("LiResNet-0x8") is None
    net = architectures.build("LiResNet-3x8", input_shape=(3, 32, 32), num_classes=10)
    kinds = Counter(type(layer) for layer in net)
    assert (kinds[ResidualConv2d], kinds[MinMax], kinds[nn.Linear]) == (3, 5, 2)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    # Counted by hand: stem, branches, neck of 4 x 4 pixels, head.
    wanted = (8 * 75 + 8) + 3 * (8 * 72 + 8) + (8 * 128 + 8) + (32 * 8 * 16 + 32) + (10 * 32 + 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == wanted


@pytest.mark.parametrize("shape", [(3, 7, 7), (1, 28, 28), (3, 1, 5)])
def test_any_size_of_image_will_do(shape):
    net = liresnet(1, 4, input_shape=shape, num_classes=3, features=6)
    assert net(torch.zeros(2, *shape)).shape == (2, 3)


def test_blocks_start_near_the_identity():
    net = GloRoNet(liresnet(6, 16, input_shape=SHAPE, num_classes=3), 0.1, SHAPE).eval()
    names = [str(place) for place, layer in enumerate(net.module) if type(layer) is ResidualConv2d]
    blocks = [layer for layer in net.bound.layers if layer.name in names]
    assert len(blocks) == 6
    assert all(0.9 < layer.value < 1.2 for layer in blocks)


def test_names_that_are_none():
    with pytest.raises(ConfigError, match="'LiResNet-12x512'"):
        architectures.build("LiResNet", input_shape=SHAPE, num_classes=3)
    with pytest.raises(ArchitectureError, match="5 channels"):
        GloRoNet(architectures.build("LiResNet-1x5", input_shape=SHAPE, num_classes=3), 0.1, SHAPE)


def training_net():
    return GloRoNet(architectures.build("LiResNet-2x8", input_shape=SHAPE, num_classes=3), 0.1, SHAPE)


def test_emma_trains_it_to_certify():
    y = torch.arange(96) % 3
    x = (0.2 + 0.3 * y[:, None, None, None] + 0.05 * torch.rand(96, *SHAPE)).clamp(0, 1)
    net = training_net()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        net(x, y, EmmaLoss()).backward()
        optimizer.step()
    assert net.batch_statistics.verified == 96
    certificate = net.eval().certify(x)
    assert certificate.certified.all()
    assert torch.equal(certificate.prediction, y)


def test_emma_gives_in_evaluation_what_it_gives_with_the_frozen_constant():
    net = training_net().eval()
    x, y = torch.rand(6, *SHAPE), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = net(x, y, EmmaLoss(reduction="none"))
    f, head = net.module(x), net.module[-1].weight
    for row in range(6):
        gap = f[row] - f[row, y[row]]
        rise = 0.1 * net.lipschitz * (head - head[y[row]]).norm(dim=1)
        share = torch.where(rise > 0, -gap / rise, 1.0).clamp(0.01, 1)
        expected = (gap + share * rise).logsumexp(0)
        torch.testing.assert_close(losses[row], expected, rtol=1e-4, atol=1e-5)
    assert net.batch_statistics.correct == (f.argmax(1) == y).sum()


def test_reductions():
    net = training_net().eval()
    x, y = torch.rand(6, *SHAPE), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = net(x, y, EmmaLoss(reduction="none"))
    torch.testing.assert_close(net(x, y, EmmaLoss()), losses.mean())
    torch.testing.assert_close(net(x, y, EmmaLoss(reduction="sum")), losses.sum())
    assert repr(EmmaLoss()) == "EmmaLoss(reduction='mean')"


def test_logits_alone_are_not_enough():
    net = training_net()
    with pytest.raises(ConfigError, match=r"net\(x, labels, criterion\)"):
        EmmaLoss()(net(torch.rand(2, *SHAPE)), torch.tensor([0, 1]))
