"""Layers of one shape iterated together, against the reference that takes them one by one."""

import dataclasses

import pytest
import torch
from power_iteration_layers import MIXED, SPECIAL, conv, dense, draw
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast.ops.power_iteration_grouped import power_iteration_grouped
from gloro_fast.ops.power_iteration_op import power_iteration_reference

RESIDUAL = conv((6, 5), (4, 4), 3, padding=(1, 1))
GROUPED = conv((7, 5), (6, 4), 3, 2, (1, 2), 1, 2)
CIRCULAR = (RESIDUAL[0], dataclasses.replace(RESIDUAL[1], padding_mode="circular"))
NETS = {
    "all alike": [RESIDUAL] * 4,
    "in turns": [RESIDUAL, GROUPED, dense(7, 5), RESIDUAL, dense(7, 5), GROUPED, GROUPED],
    "padding of both modes": [RESIDUAL, CIRCULAR, CIRCULAR, RESIDUAL],
    "none alike": MIXED,
    "every kind twice": [layer for layer in SPECIAL.values() for _ in range(2)],
    "one dimension": [conv((9,), (3, 7), 3, padding=(1, 1))] * 3,
}


def results(function, layers, weights, v, iterations):
    weights = [weight.clone().requires_grad_() for weight in weights]
    sigma, v_new, u = function(weights, v, [geometry for _, geometry in layers], iterations)
    gradients = torch.autograd.grad((sigma * torch.arange(1, len(sigma) + 1)).sum(), weights)
    return [sigma, *v_new, *u, *gradients]


@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("net", NETS)
def test_it_gives_what_the_reference_gives(net, iterations):
    layers = NETS[net]
    weights, v = draw(layers, torch.float64)
    v = [start.double() for start in v]
    expected = results(power_iteration_reference, layers, weights, v, iterations)
    for mine, its in zip(results(power_iteration_grouped, layers, weights, v, iterations), expected, strict=True):
        assert mine.shape == its.shape
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)


def test_a_layer_of_zeros_among_others_keeps_its_iterate():
    layers = [RESIDUAL] * 3
    weights, v = draw(layers)
    weights[1].zero_()
    sigma, right, *_ = power_iteration_grouped(weights, v, [geometry for _, geometry in layers], 2)
    assert sigma[1] == 0
    assert torch.equal(right[1], v[1])
    assert (sigma[[0, 2]] > 0).all()


def test_iterates_are_float32_for_narrow_weights():
    weights, v = draw([RESIDUAL] * 2, torch.bfloat16)
    sigma, right, left = power_iteration_grouped(weights, v, [RESIDUAL[1]] * 2, 2)
    assert {tensor.dtype for tensor in (sigma, *right, *left)} == {torch.float32}


def test_no_layers():
    sigma, right, left = power_iteration_grouped([], [], [], 3)
    assert (sigma.shape, right, left) == ((0,), [], [])


def test_layers_of_one_shape_take_the_convolutions_of_one():
    class Convolutions(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten.convolution.default
            return func(*args, **(kwargs or {}))

    counts = []
    for number in (1, 5):
        weights, v = draw([RESIDUAL] * number)
        with Convolutions() as calls:
            power_iteration_grouped(weights, v, [RESIDUAL[1]] * number, 3)
        counts.append(calls.count)
    assert counts == [8, 8]
