"""Convolutions on tensor cores, compiled as C++ and run on fibers, against the float64 reference.

Copies to shared memory land when their thread waits for them, and products of matrices take 32 lanes.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from device_checks import WIDE, assert_agrees_on_tensor_cores, draw
from device_program import TENSOR, Card, DeviceProgram
from power_iteration_layers import Layer, conv, convolutions, dense

LARGE = Card(3, 228 << 10, 227 << 10, 1 << 10, 9, 0, TENSOR)
SMALL = Card(3, cores=TENSOR)  # 100 KB of shared memory
TYPES = [torch.float32, torch.bfloat16, torch.float16]
# Many kernels, strides, paddings and dilations, few of each with many channels.
CONVOLUTIONS = convolutions([(7, 5), (9,), (11, 13)], [((16, 33), 1), ((36, 34), 2), ((17, 16), 1)])[::5]


@pytest.mark.parametrize("layer", WIDE.values(), ids=WIDE.keys())
@pytest.mark.parametrize("card", [LARGE, SMALL], ids=["227 KB", "99 KB"])
@pytest.mark.parametrize("iterations", [0, 3])
def test_odd_shapes(layer: Layer, card: Card, iterations: int, plain: DeviceProgram) -> None:
    network = draw([layer])
    assert_agrees_on_tensor_cores(plain.run(network, iterations, card), network, iterations)


@pytest.mark.parametrize("first", range(0, len(CONVOLUTIONS), 16))
def test_convolutions(first: int, plain: DeviceProgram) -> None:
    network = draw(CONVOLUTIONS[first : first + 16])  # so many layers that they share blocks
    card = (LARGE, SMALL)[first // 16 % 2]
    assert_agrees_on_tensor_cores(plain.run(network, 2, card, schedule=first), network, 2)


@pytest.mark.parametrize("kilobytes", [60, 75, 99, 130, 163, 227])
@pytest.mark.parametrize("multiprocessors", [1, 4, 8, 30])  # two cut nothing as none of these do
def test_whatever_the_planner_cuts(kilobytes: int, multiprocessors: int, plain: DeviceProgram) -> None:
    """Cards of all sizes and speeds, so that tiles, splits, stages and windows of every number run."""
    layers = [conv((12, 11), (64, 48), 3, 2, (1, 1)), conv((7, 16), (80, 160), 3, padding=(1, 1))]
    major = 9 if kilobytes > 99 else 8
    card = Card(multiprocessors, (kilobytes + 1) << 10, kilobytes << 10, 1 << 10, major, 0, TENSOR)
    network = draw(layers)
    assert_agrees_on_tensor_cores(plain.run(network, 1, card), network, 1)


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_of_every_type_beside_other_layers(dtype: torch.dtype, plain: DeviceProgram) -> None:
    layers = [WIDE["3 x 3"], dense(40, 333), conv((7, 5), (6, 4), 3, 2, (1, 2), 1, 2), WIDE["groups"]]
    network = draw(layers, dtype)
    assert_agrees_on_tensor_cores(plain.run(network, 3, LARGE), network, 3)


def test_channels_last(plain: DeviceProgram) -> None:
    network = draw([WIDE["groups"], WIDE["channels beyond the tiles"]])
    rows = plain.run(network, 2, SMALL)
    network.weights = [weight.to(memory_format=torch.channels_last) for weight in network.weights]
    columns = plain.run(network, 2, SMALL)
    assert torch.equal(rows.sigma, columns.sigma)
    for a, b in zip(rows.gradients, columns.gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("card", [LARGE, SMALL], ids=["227 KB", "99 KB"])
def test_same_bits_in_every_order_and_run(card: Card, plain: DeviceProgram) -> None:
    network = draw([*WIDE.values(), dense(30, 70)])
    first = plain.run(network, 2, card).raw
    assert all(plain.run(network, 2, card, schedule=order).raw == first for order in (0, 1, 7))


class TestExtremes:
    LAYER = WIDE["channels beyond the tiles"]

    @pytest.mark.parametrize("scale", [1e-30, 1e-16, 1e16, 1e30])
    def test_no_underflow_or_overflow_in_the_squares(self, scale: float, plain: DeviceProgram) -> None:
        network = draw([self.LAYER])
        network.weights[0] *= scale
        assert_agrees_on_tensor_cores(plain.run(network, 4, SMALL), network, 4)

    def test_zero_weights(self, plain: DeviceProgram) -> None:
        network = draw([self.LAYER])
        network.weights[0].zero_()
        outcome = plain.run(network, 3, SMALL)
        assert outcome.sigma.item() == 0
        assert torch.equal(outcome.v[0], network.v[0])
        assert not outcome.u[0].any()
        assert not outcome.gradients[0].any()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_gives_nan_and_leaves_the_iterate(self, value: float, plain: DeviceProgram) -> None:
        network = draw([self.LAYER])
        network.weights[0].view(-1)[1] = value
        outcome = plain.run(network, 3, SMALL)
        assert outcome.sigma.isnan().all()
        assert torch.equal(outcome.v[0], network.v[0])

    def test_a_nan_iterate_stays_nan(self, plain: DeviceProgram) -> None:
        network = draw([self.LAYER])
        network.v[0].fill_(math.nan)
        assert plain.run(network, 3, SMALL).sigma.isnan().all()


def test_sigma_after_many_iterations(plain: DeviceProgram) -> None:
    """What the products cut off stays small beside what the iteration brings."""
    network = draw([WIDE["3 x 3"]])
    assert_agrees_on_tensor_cores(plain.run(network, 30, LARGE), network, 30)


def test_no_access_out_of_bounds(addresses: DeviceProgram) -> None:
    # What a type changes is how weights are read, what a card changes are the tiles.
    for dtype, card in zip((torch.float32, *TYPES), itertools.cycle([LARGE, SMALL]), strict=False):
        network = draw([*WIDE.values()], dtype)
        assert_agrees_on_tensor_cores(addresses.run(network, 1, card), network, 1)


def test_no_data_race(threads: DeviceProgram) -> None:
    network = draw([WIDE["5 x 5"], WIDE["phases without taps"]])
    for card in (LARGE, SMALL):
        assert_agrees_on_tensor_cores(threads.run(network, 1, card, schedule=5), network, 1)
