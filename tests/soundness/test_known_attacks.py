"""What made other implementations certify points that are not robust, tried on this one by every method that bounds."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.bounds import METHODS
from gloro_fast.nn import Conv2d, MinMax

BOUNDS = sorted(METHODS.keys() - {"power"})


@pytest.fixture(params=BOUNDS)
def method(request):
    return request.param


def dense_net(*weights, epsilon=0.1):
    layers = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(weight)
        layers += [layer, MinMax()]
    return GloRoNet(nn.Sequential(*layers[:-1]), epsilon, (weights[0].shape[1],)).eval()


def breaks(net, x, certificate):
    """Walk from each certified point towards the others and at random, to just within its radius; does one break?

    In float64, since certificates are about real arithmetic unless they are executed.
    """
    module = copy.deepcopy(net.module).double()
    for index in torch.nonzero(certificate.certified).flatten().tolist():
        start = x[index].double()
        directions = torch.cat([x.double() - start, torch.randn(10, *start.shape, dtype=torch.float64)])
        directions = directions[directions.norm(dim=1) > 0]
        reach = min(certificate.radius[index].item(), 1e6) * (1 - 1e-6)
        steps = torch.linspace(0, reach, 20, dtype=torch.float64)[:, None, None]
        points = start + steps * directions / directions.norm(dim=1, keepdim=True)
        if (module(points.flatten(0, 1)).argmax(1) != certificate.prediction[index]).any():
            return True
    return False


@pytest.mark.parametrize("exponents", [(-75, 70), (-120, 115), (-140, 120), (90, -95), (-149, 149)])
def test_weights_rescaled_so_that_squares_and_products_underflow(method, exponents):
    # Scaling one layer by c and the next by 1 / c changes nothing that the net computes; in float32, squares and
    # sums of the small one are 0, and so was K.
    first, second = torch.randn(4, 2), torch.randn(4, 4)
    head = torch.randn(3, 4)
    # Powers of two, so that no weight changes its digits unless it becomes subnormal.
    scaled = dense_net(
        torch.ldexp(first, torch.tensor(exponents[0])), torch.ldexp(second, torch.tensor(exponents[1])), head
    ).freeze(method)
    plain = dense_net(first, second, head).freeze(method)
    x = torch.rand(15, 2)
    assert scaled.lipschitz > 0
    # Subnormal activations lose most of their digits: that is for executed certificates to know.
    assert not breaks(scaled, x, scaled.certify(x, executed=min(exponents) < -90))
    if min(exponents) > -110:
        assert scaled.lipschitz == pytest.approx(plain.lipschitz * 2.0 ** sum(exponents), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e-20, 1e-30, 1e-38, 1e-43])
def test_tiny_weights(method, scale):
    # The margins are as tiny as the bound: what is certified is what is certified of the net without the scale.
    weights = [torch.randn(4, 2), torch.randn(4, 4), torch.randn(3, 4)]
    x = torch.rand(15, 2)
    tiny = dense_net(*(weight * scale for weight in weights)).freeze(method)
    assert tiny.lipschitz > 0
    assert not breaks(tiny, x, tiny.certify(x, executed=True))
    if scale == 1e-12:
        expected = dense_net(*weights).freeze(method).certify(x).radius
        torch.testing.assert_close(tiny.certify(x).radius, expected, rtol=1e-3, atol=0)


def test_the_walk_finds_what_is_not_robust():
    # Or the tests above could not fail.
    net = dense_net(torch.randn(4, 2), torch.randn(4, 4), torch.randn(3, 4)).freeze()
    x = torch.rand(15, 2)
    certificate = net.certify(x, 0.0)
    assert certificate.certified.any()
    assert not breaks(net, x, certificate)
    assert breaks(net, x, dataclasses.replace(certificate, radius=certificate.radius * 20))


def test_tied_logits(method):
    head = torch.randn(1, 4).repeat(3, 1)
    net = dense_net(torch.randn(4, 2), head, epsilon=0.0).freeze(method)
    certificate = net.certify(torch.rand(20, 2))
    assert not certificate.certified.any()
    assert (certificate.radius == 0).all()


def test_zero_layers(method):
    x = torch.rand(20, 2)
    # Before the head: all logits are its bias, nothing depends on the input. Only a strict winner is certified.
    net = dense_net(torch.zeros(4, 2), torch.randn(3, 4)).freeze(method)
    assert net.lipschitz == 0
    assert not net.certify(x).certified.any()
    net.module[2].bias = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))
    assert net.freeze(method).certify(x, 1e30).certified.all()
    # A zero head on a live body ties everything.
    assert not dense_net(torch.randn(4, 2), torch.zeros(3, 4)).freeze(method).certify(x).certified.any()
    # One weight that is not zero, however small, is no zero layer.
    weight = torch.zeros(4, 2)
    weight[0, 0] = 1e-45
    assert dense_net(weight, torch.randn(3, 4)).freeze(method).lipschitz > 0


def test_a_norm_beyond_float64_certifies_nothing(method):
    weights = [torch.full((4, 2), 1e200, dtype=torch.float64), torch.full((4, 4), 1e200, dtype=torch.float64)]
    net = dense_net(*weights, torch.eye(3, 4, dtype=torch.float64)).freeze(method)
    assert net.lipschitz == float("inf")
    x = torch.tensor([[1e-300, -1e-300], [0.5, 0.25]], dtype=torch.float64)
    assert not net.certify(x, 0.0).certified.any()


def test_an_estimate_from_below_certifies_what_a_bound_does_not():
    # The attack on power iteration itself: it stops where two singular values are close, before it finds the larger.
    torch.manual_seed(1)
    u, v = (torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64))[0] for _ in range(2))
    weight = u @ torch.diag(torch.linspace(0.98, 1.0, 60, dtype=torch.float64)) @ v
    net = dense_net(weight, torch.eye(2, 60, dtype=torch.float64))
    estimate, bound = net.find_bound("power").lipschitz, net.find_bound("auto").lipschitz
    assert estimate < torch.linalg.matrix_norm(weight, 2) - 1e-4
    assert torch.linalg.matrix_norm(weight, 2) < bound


def test_a_high_pass_layer_on_an_odd_side(method):
    # A torus of the image's own side would give 3 for a norm of 2 + sqrt(2).
    convolution = Conv2d(1, 2, (1, 3), padding=(0, 1), bias=False)
    convolution.weight.data = torch.tensor([[[[-1.0, 2.0, -1.0]]], [[[0.0, 0.0, 0.0]]]])
    module = nn.Sequential(convolution, nn.Flatten(), nn.Linear(6, 2, bias=False))
    net = GloRoNet(module, 0.1, (1, 1, 3)).freeze(method)
    assert net.lipschitz > 3.414
