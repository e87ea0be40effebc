"""The comparators must compute what the package computes, or their times mean nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import eager, stock
from benchmarks.bound_jobs import flops
from benchmarks.eager import EagerStep
from benchmarks.gloro import GloRoStep
from benchmarks.networks import LAMBDA, NETWORKS, Network
from gloro_fast import ops
from gloro_fast.ops import Geometry
from gloro_fast.rules.registry import LinearMap

SMALL = Network("2C2F", "mnist-2c2f", (1, 12, 12), 8)
CPU = torch.device("cpu")


def test_pair_sort_is_minmax():
    x = torch.randn(3, 6, 5, 4)
    assert torch.equal(eager.PairSort()(x), ops.minmax_reference(x)[0])


def test_stock_networks_take_the_package_weights():
    for network in NETWORKS.values():
        net = GloRoStep(network, CPU).trainer.net.module
        module = stock.build(network, eager.PairSort)
        module.load_state_dict(net.state_dict())
        x = torch.rand(2, *network.input_shape)
        torch.testing.assert_close(module(x), net(x))


def layers():
    conv = Geometry((3, 8, 8), (2, 2), ((1, 1), (1, 1)), (1, 1))
    return [torch.randn(5, 3, 4, 4), torch.randn(7, 20)], [conv, Geometry((20,))]


def test_spectral_norms_are_those_of_the_package_with_the_same_gradient():
    weights, geometries = layers()
    for weight in weights:
        weight.requires_grad_()
    iterates = eager.start(geometries, CPU)
    sigma, v_new, _ = ops.power_iteration_reference(weights, [v[0] for v in iterates], geometries, 3)
    expected = torch.autograd.grad(sigma.prod(), weights)
    got = eager.spectral_norms(weights, iterates, geometries, 3)
    torch.testing.assert_close(got, sigma)
    for gradient, reference in zip(torch.autograd.grad(got.prod(), weights), expected, strict=True):
        torch.testing.assert_close(gradient, reference)
    for iterate, v in zip(iterates, v_new, strict=True):
        torch.testing.assert_close(iterate[0], v)


def test_grouped_convolutions_give_the_norms_of_the_loop():
    geometry = Geometry((4, 6, 6), (1, 1), ((1, 1), (1, 1)), (1, 1))
    weights = [torch.randn(4, 4, 3, 3) for _ in range(3)]
    iterates = eager.start([geometry] * 3, CPU)
    together = torch.cat(iterates, dim=1)
    expected = eager.spectral_norms(weights, iterates, [geometry] * 3, 4)
    torch.testing.assert_close(eager.grouped_spectral_norms(weights, together, geometry, 4), expected)


def test_bottom_and_loss_are_those_of_the_package():
    logits, labels = torch.randn(9, 6, dtype=torch.float64), torch.randint(6, (9,))
    head, lipschitz = torch.randn(6, 4, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    bottom = eager.bottom_logit(logits, head, lipschitz, 0.3)
    expected, _, _ = ops.margin_reference(logits, ops.head_differences_reference(head), lipschitz, 0.3)
    torch.testing.assert_close(bottom, expected)
    loss = ops.trades_reference(torch.cat([logits, expected[:, None]], dim=1), labels, LAMBDA).mean()
    torch.testing.assert_close(eager.trades(logits, bottom, labels, LAMBDA), loss)


@pytest.mark.parametrize("settings", stock.CANDIDATES)
def test_an_eager_step_is_a_step_of_the_trainer(settings):
    ours = GloRoStep(SMALL, CPU)
    theirs = EagerStep(SMALL, settings, ours.images, ours.labels)
    theirs.module.load_state_dict(ours.trainer.net.module.state_dict())
    for iterate, vector in zip(theirs.iterates, ours.trainer.net.iterates.vectors(), strict=True):
        iterate.copy_(vector[None])
    for _ in range(3):
        ours()
        theirs()
    trained = ours.trainer.net.module.state_dict()
    for name, weight in theirs.module.state_dict().items():
        torch.testing.assert_close(weight, trained[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("settings", [*stock.CANDIDATES, stock.PLAIN], ids=str)
def test_a_standard_step_learns(settings):
    data = SMALL.data(8).train
    step = stock.StandardStep(SMALL, settings, data.images / 255, data.labels)
    losses = [float(step()) for _ in range(30)]
    assert losses[-1] < losses[0]


def test_operations_are_counted_where_there_are_pixels():
    dense = LinearMap(torch.randn(7, 20), Geometry((20,)))
    # Three taps on three pixels, padded by one: 2 + 3 + 2 products.
    conv = LinearMap(torch.randn(2, 4, 3), Geometry((4, 3), (1,), ((1, 1),), (1,)))
    assert flops([dense]) == 2 * 7 * 20 * 12
    assert flops([conv]) == 2 * 7 * 2 * 4 * 12
