"""The CUDA kernels of power iteration, compiled as C++ and run on the CPU, against the float64 reference.

Every device thread is a fiber; cards differ in how many blocks they hold at once, schedules in the order in which
blocks and threads take their turns.
"""

from __future__ import annotations

import math

import pytest
import torch
from device_checks import SMALL, assert_agrees, draw
from device_program import Card, DeviceProgram
from power_iteration_layers import MIXED, SPECIAL, Layer, convolutions, dense, of_network

CARDS = [Card(1), Card(5)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
SCHEDULES = (0, 1, 7)  # ascending, descending, drawn anew for every turn
CONVOLUTIONS = convolutions([(7, 5), (9,), (17, 18)], [((1, 5), 1), ((6, 4), 2), ((3, 3), 3), ((9, 17), 1)])[::3]
SMALL_NETWORKS = {"2C2F": (1, 28, 28), "4C3F": (1, 28, 28), "6C2F": (3, 12, 12), "8C2F": (3, 8, 8)}


@pytest.mark.parametrize("first", range(0, len(CONVOLUTIONS), 48))
def test_convolutions(first: int, plain: DeviceProgram) -> None:
    network = draw(CONVOLUTIONS[first : first + 48])  # so many layers that they share blocks
    assert_agrees(plain.run(network, 2, CARDS[first // 48 % 2], schedule=first), network, 2)


@pytest.mark.parametrize("layer", SPECIAL.values(), ids=SPECIAL.keys())
@pytest.mark.parametrize("iterations", [0, 3])
def test_special_shapes(layer: Layer, iterations: int, plain: DeviceProgram) -> None:
    network = draw([layer])
    assert_agrees(plain.run(network, iterations, Card(4)), network, iterations)


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_of_every_type(dtype: torch.dtype, plain: DeviceProgram) -> None:
    network = draw(MIXED, dtype)
    assert_agrees(plain.run(network, 3, Card(4)), network, 3)


def test_channels_last(plain: DeviceProgram) -> None:
    network = draw([MIXED[4], MIXED[0]])
    rows = plain.run(network, 2, Card(2))
    network.weights = [weight.to(memory_format=torch.channels_last) for weight in network.weights]
    columns = plain.run(network, 2, Card(2))
    assert torch.equal(rows.sigma, columns.sigma)
    for a, b in zip(rows.gradients, columns.gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_networks_have_the_same_bits_in_every_order(name: str, plain: DeviceProgram) -> None:
    network = draw(of_network(name, SMALL_NETWORKS[name]))
    outcomes = [plain.run(network, 5, Card(6), schedule) for schedule in SCHEDULES]
    assert_agrees(outcomes[0], network, 5)
    assert outcomes[0].raw == outcomes[1].raw == outcomes[2].raw


def test_a_card_that_holds_fewer_blocks_than_planned(plain: DeviceProgram) -> None:
    network = draw(MIXED)
    assert_agrees(plain.run(network, 2, Card(3), resident=1), network, 2)


def test_a_card_that_holds_no_block_is_refused(plain: DeviceProgram) -> None:
    process, _ = plain.start(draw(MIXED[:1]), 2, Card(3), resident=0)
    assert process.returncode != 0
    assert "holds no block of the kernel" in process.stderr


def test_more_layers_than_a_launch_takes(plain: DeviceProgram) -> None:
    network = draw([dense(3 + i % 5, 7) for i in range(100)])
    assert_agrees(plain.run(network, 2, Card(3)), network, 2)


def test_same_bits_in_every_order_and_run(plain: DeviceProgram) -> None:
    network = draw([*MIXED, *SPECIAL.values()])
    first = plain.run(network, 3, Card(5), schedule=0).raw
    assert all(plain.run(network, 3, Card(5), schedule=order).raw == first for order in SCHEDULES)


@pytest.mark.parametrize("layer", [MIXED[4], dense(6, 9)], ids=["convolution", "dense"])
class TestExtremes:
    @pytest.mark.parametrize("scale", [1e-30, 1e-16, 1e16, 1e30])
    def test_no_underflow_or_overflow_in_the_squares(self, layer: Layer, scale: float, plain: DeviceProgram) -> None:
        network = draw([layer])
        network.weights[0] *= scale
        assert_agrees(plain.run(network, 4, Card(2)), network, 4)

    def test_zero_weights(self, layer: Layer, plain: DeviceProgram) -> None:
        network = draw([layer])
        network.weights[0].zero_()
        outcome = plain.run(network, 3, Card(2))
        assert outcome.sigma.item() == 0
        assert torch.equal(outcome.v[0], network.v[0])
        assert not outcome.u[0].any()
        assert not outcome.gradients[0].any()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_gives_nan_and_leaves_the_iterate(
        self, layer: Layer, value: float, plain: DeviceProgram
    ) -> None:
        network = draw([layer])
        network.weights[0].view(-1)[1] = value
        outcome = plain.run(network, 3, Card(2))
        assert outcome.sigma.isnan().all()
        assert torch.equal(outcome.v[0], network.v[0])

    def test_a_nan_iterate_stays_nan(self, layer: Layer, plain: DeviceProgram) -> None:
        network = draw([layer])
        network.v[0].fill_(math.nan)
        assert plain.run(network, 3, Card(2)).sigma.isnan().all()


def test_no_access_out_of_bounds(addresses: DeviceProgram) -> None:
    for dtype in TYPES:
        network = draw([*SPECIAL.values(), *CONVOLUTIONS[:: 17 if dtype == torch.float32 else 61]], dtype)
        assert_agrees(addresses.run(network, 1, Card(3)), network, 1)


def test_no_data_race(threads: DeviceProgram) -> None:
    network = draw(SMALL)
    assert_agrees(threads.run(network, 1, Card(3), schedule=5), network, 1)
