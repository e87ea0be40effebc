"""BatchNorm in evaluation is a diagonal map: its scale against the layer, its bound, training through it."""

import copy

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.bounds.diagonal import diagonal_bound
from gloro_fast.errors import ArchitectureError
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import Diagonal, MinMax
from gloro_fast.rules.registry import lipschitz_rule

LAYERS = [
    (nn.BatchNorm1d, (4,)),
    (nn.BatchNorm1d, (4, 3)),
    (nn.BatchNorm2d, (4, 3, 2)),
    (nn.BatchNorm3d, (4, 1, 2, 3)),
    (nn.SyncBatchNorm, (4,)),
    (nn.SyncBatchNorm, (4, 3, 2)),
]


def used(layer):
    """A layer with statistics and parameters of some training."""
    nn.init.uniform_(layer.running_var, 0.01, 2.0)
    nn.init.normal_(layer.running_mean)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "shape"), LAYERS)
def test_the_scale_is_what_the_layer_multiplies_by(kind, shape, affine):
    layer = used(kind(4, affine=affine)).double()
    rule = lipschitz_rule("bn", layer, shape)
    assert isinstance(rule, Diagonal)
    assert rule.of_channels
    x, y = torch.randn(2, 5, *shape, dtype=torch.float64)
    torch.testing.assert_close(layer(x) - layer(y), rule.scale * (x - y))
    bound = diagonal_bound("bn", rule)
    largest = torch.linalg.matrix_norm(torch.diag(rule.scale.flatten()), 2)
    assert largest < bound.value <= largest * (1 + 1e-12)
    assert bound.kind == "exact"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_bounds_nothing(value):
    assert diagonal_bound("bn", Diagonal(torch.tensor([1.0, value]))).value == torch.inf


def test_a_scale_that_underflows_is_not_zero():
    layer = used(nn.BatchNorm1d(1)).double()
    layer.weight.data.fill_(1e-308)
    layer.running_var.fill_(1e300)
    assert diagonal_bound("bn", lipschitz_rule("bn", layer, (1,))).value >= 2.2e-308


def test_a_negative_variance_is_not_certified():
    # Its sum with eps cancels, and rounded to float32 it makes the layer 7 % steeper than in real arithmetic.
    layer = used(nn.BatchNorm1d(1, affine=False))
    layer.running_var.fill_(-9.99999838e-06)
    layer.running_mean.zero_()
    real = (layer.running_var.double() + layer.eps).rsqrt().item()
    assert layer(torch.ones(1, 1)).item() > 1.05 * real
    net = GloRoNet(nn.Sequential(layer, nn.Linear(1, 2)), 1e-9, (1,)).eval()
    assert not net.certify(torch.ones(4, 1)).certified.any()


def test_a_negative_eps_is_refused():
    with pytest.raises(ArchitectureError, match=r"bn: eps is -0\.001; it must be at least 0"):
        lipschitz_rule("bn", nn.BatchNorm1d(3, eps=-1e-3), (3,))


@pytest.mark.parametrize("converted", [False, True])
def test_a_synchronized_one_is_one(converted):
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), used(nn.BatchNorm2d(4)), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain)) if converted else copy.deepcopy(plain)
    if not converted:
        synchronized[1] = nn.SyncBatchNorm(4).eval()
        synchronized[1].load_state_dict(plain[1].state_dict())
    nets = [GloRoNet(module, 0.1, (2, 5, 5)).eval() for module in (plain, synchronized)]
    assert type(synchronized[1]) is nn.SyncBatchNorm
    assert nets[0].lipschitz == nets[1].lipschitz
    assert nets[0].margin_form == nets[1].margin_form
    x, y = torch.rand(8, 2, 5, 5), torch.randint(3, (8,))
    assert torch.equal(nets[0](x), nets[1](x))
    assert torch.equal(*(net.train()(x, y, CrossEntropyLoss()) for net in nets))


def test_without_running_statistics_it_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 3))
    with pytest.raises(ArchitectureError) as caught:
        GloRoNet(module, 0.1, (1, 8, 8))
    assert str(caught.value) == (
        "1: BatchNorm1d without running statistics mixes the images of a batch also in evaluation; "
        "set track_running_stats=True"
    )


def test_the_bound_trains_the_scale_and_certificates_hold():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), used(nn.BatchNorm1d(8)), MinMax(), nn.Linear(8, 3))
    net = GloRoNet(module, 0.01, (1, 8, 8))
    x, y = torch.rand(32, 1, 8, 8), torch.randint(3, (32,))
    net(x, y, CrossEntropyLoss()).backward()
    (gradient,) = torch.autograd.grad(net._training_lipschitz(), module[2].weight)
    assert gradient.isfinite().all()
    assert gradient.any()
    net.eval()
    a, b = torch.rand(2, 1000, 64)
    ratio = (module[:4](a) - module[:4](b)).norm(dim=1) / (a - b).norm(dim=1)
    assert 0 < ratio.max() <= net.lipschitz
