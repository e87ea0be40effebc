"""The CUDA kernels of power iteration, compiled as C++ and run on the CPU, against the float64 reference.

Every device thread is a fiber; cards differ in how many blocks they hold at once, schedules in the order in which
blocks and threads take their turns. A checker is trusted only after it has caught planted bugs.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from device_program import Card, DeviceProgram, Network, Outcome

from gloro_fast.architectures import build
from gloro_fast.ops import Geometry, power_iteration_reference
from gloro_fast.plan import make_plan

Layer = tuple[tuple[int, ...], Geometry]
CARDS = [Card(1), Card(5)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def conv(
    size: tuple[int, ...],
    channels: tuple[int, int],
    kernel: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
    groups: int = 1,
) -> Layer:
    """Weight shape and geometry, the same along every dimension but for the order of the padding."""
    inputs, outputs = channels
    pads = (padding, padding[::-1])[: len(size)]
    geometry = Geometry((inputs, *size), (stride,) * len(size), pads, (dilation,) * len(size), groups)
    return (outputs, inputs // groups, *(kernel,) * len(size)), geometry


def dense(outputs: int, inputs: int) -> Layer:
    return (outputs, inputs), Geometry((inputs,))


CONVOLUTIONS = [
    conv(size, channels, kernel, stride, padding, dilation, groups)
    for size, (channels, groups), kernel, stride, padding, dilation in itertools.product(
        [(7, 5), (9,), (17, 18)],
        [((1, 5), 1), ((6, 4), 2), ((3, 3), 3), ((9, 17), 1)],
        [1, 3, 4],
        [1, 2, 3],
        [(0, 0), (1, 2), (4, 0)],
        [1, 2],
    )
    if all(n + sum(padding) >= dilation * (kernel - 1) + 1 for n in size)
][::3]
SPECIAL = {
    "1 x 1": conv((1, 1), (4, 6), 1),
    "input smaller than the kernel": conv((1, 1), (4, 6), 5, padding=(2, 2)),
    "phases without pixels": conv((2, 3), (2, 2), 2, stride=5),
    "phases without taps": conv((5, 5), (2, 3), 1, stride=3),
    "outputs that see padding only": conv((3, 3), (2, 2), 1, padding=(3, 3)),
    "stride and dilation share a factor": conv((15, 14), (2, 3), 3, 4, (1, 2), 6),
    "one channel": conv((8, 8), (1, 1), 3, padding=(1, 1)),
    "depthwise": conv((6, 6), (12, 12), 3, padding=(1, 1), groups=12),
    "several chunks of channels": conv((6, 6), (150, 70), 3, padding=(1, 1)),
    "wide picture": conv((5, 300), (2, 9), 4, 2, (1, 1)),
    "dense 1 x 1": dense(1, 1),
    "dense 40 x 1": dense(40, 1),
    "dense 1 x 40": dense(1, 40),
    "dense, rows that are not aligned": dense(83, 333),
    "dense, aligned": dense(100, 1568),
    "dense, longer than what is staged": dense(9, 8200),
}
MIXED = [
    conv((33, 31), (19, 23), 3, padding=(1, 1)),
    dense(100, 1568),
    conv((11,), (4, 4), 4, 3, (2, 0), 2, 4),
    dense(83, 333),
    conv((7, 5), (6, 4), 3, 2, (1, 2), 1, 2),
]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    return DeviceProgram(tmp_path_factory.mktemp("device"), "none")


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    return DeviceProgram(tmp_path_factory.mktemp("device-address"), "address")


@pytest.fixture(scope="session")
def threads(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    return DeviceProgram(tmp_path_factory.mktemp("device-thread"), "thread")


def draw(layers: list[Layer], dtype: torch.dtype = torch.float32) -> Network:
    generator = torch.Generator().manual_seed(0)
    network = Network([], [], [])
    for shape, geometry in layers:
        weight = torch.randn(shape, generator=generator) / math.sqrt(max(1, math.prod(shape[1:])))
        start = torch.randn(geometry.input_shape, generator=generator)
        network.weights.append(weight.to(dtype))
        network.v.append(F.normalize(start.flatten(), dim=0).reshape(start.shape))
        network.geometries.append(geometry)
    return network


def reference(network: Network, iterations: int) -> Outcome:
    """In float64, with the factors 1, 2, ... of the gradients that the program takes."""
    weights = [weight.double().requires_grad_() for weight in network.weights]
    sigma, v, u = power_iteration_reference(weights, [v.double() for v in network.v], network.geometries, iterations)
    factors = torch.arange(1, len(weights) + 1, dtype=torch.float64)
    gradients = torch.autograd.grad((sigma * factors).sum(), weights)
    return Outcome(sigma.detach(), v, u, list(gradients), b"")


def assert_agrees(outcome: Outcome, network: Network, iterations: int) -> None:
    expected = reference(network, iterations)
    torch.testing.assert_close(outcome.sigma.double(), expected.sigma, rtol=1e-5, atol=1e-30)
    for actual, exact in zip((*outcome.v, *outcome.u), (*expected.v, *expected.u), strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=0, atol=1e-5)
    for actual, exact in zip(outcome.gradients, expected.gradients, strict=True):
        rounding = 0 if actual.dtype == torch.float32 else torch.finfo(actual.dtype).eps
        error = torch.linalg.vector_norm(actual.double() - exact)
        assert error <= (1e-4 + rounding) * torch.linalg.vector_norm(exact)


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


NETWORKS = {
    "2C2F": (1, 28, 28),
    "4C3F": (1, 28, 28),
    "6C2F": (3, 12, 12),
    "8C2F": (3, 8, 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, plain: DeviceProgram) -> None:
    maps = make_plan(build(name, input_shape=NETWORKS[name], num_classes=10), NETWORKS[name]).linear_maps()
    network = draw([(tuple(linear.weight.shape), linear.geometry) for linear in maps])
    assert_agrees(plain.run(network, 5, Card(6)), network, 5)


def test_more_layers_than_a_launch_takes(plain: DeviceProgram) -> None:
    network = draw([dense(3 + i % 5, 7) for i in range(100)])
    assert_agrees(plain.run(network, 2, Card(3)), network, 2)


def test_same_bits_in_every_order_and_run(plain: DeviceProgram) -> None:
    network = draw([*MIXED, *SPECIAL.values()])
    first = plain.run(network, 3, Card(5), schedule=0).raw
    assert all(plain.run(network, 3, Card(5), schedule=order).raw == first for order in (0, 1, 7))


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


SMALL = [conv((5, 4), (9, 17), 3, 2, (1, 1)), dense(17, 130), conv((4,), (2, 3), 3)]


def test_no_data_race(threads: DeviceProgram) -> None:
    network = draw(SMALL)
    assert_agrees(threads.run(network, 1, Card(3), schedule=5), network, 1)


BARRIER = "      while (arrived(arrivals) < target) {\n      }\n"
PLANTED = {
    "a barrier of the group is missing": ("plain", "power_iteration.cuh", "      group.barrier();\n", ""),
    "the barrier does not wait": ("plain", "power_iteration.cuh", BARRIER, ""),
    "wrong padding of the transpose": (
        "plain",
        "power_iteration_item.cuh",
        "const int reach = phase + axis.padding;",
        "const int reach = phase + axis.padding + axis.stride;",
    ),
    "a tile is one output short": (
        "plain",
        "power_iteration_item.cuh",
        "view.outputs = min(most, axis.output - start);",
        "view.outputs = min(most - 1, axis.output - start);",
    ),
    "reads a row too many": (
        "addresses",
        "power_iteration_dense.cuh",
        "if (first_row + r >= rows) continue;",
        "if (first_row + r > rows) continue;",
    ),
    "sums in the order of arrival": (
        "plain",
        "power_iteration_values.cuh",
        "    *to = sum;\n",
        "    static double running = 0;\n    running += sum;\n    *to = sum + 1e-4 * running;\n",
    ),
    "shared memory is reused too early": (
        "threads",
        "power_iteration_conv.cuh",
        "min((place.split + 1) * share, terms));\n      __syncthreads();",
        "min((place.split + 1) * share, terms));",
    ),
}


@pytest.mark.parametrize(("checker", "file", "right", "wrong"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_bug_is_caught(
    checker: str, file: str, right: str, wrong: str, request: pytest.FixtureRequest
) -> None:
    program: DeviceProgram = request.getfixturevalue(checker)
    broken = program.with_kernels(file, right, wrong, request.node.callspec.id.replace(" ", "-").replace(",", ""))
    network = draw(SMALL if checker == "threads" else [*SMALL, *MIXED[2:]])
    results = set()
    for schedule in (0, 1, 7):
        process, result = program.start(network, 2, Card(5), schedule, program=broken)
        if process.returncode != 0:
            return
        results.add(result.read_bytes())
        outcome = program.read(network, result)
        try:
            assert_agrees(outcome, network, 2)
        except AssertionError:
            return
    assert len(results) > 1


def test_a_missing_release_is_caught(threads: DeviceProgram) -> None:
    """The fence lies in the words that the harness gives the kernels, of which the bug plants a weaker one."""
    broken = threads.with_kernels(
        "power_iteration.cuh",
        "      arrive(arrivals);",
        "      __atomic_fetch_add(arrivals, 1u, __ATOMIC_RELAXED);\n      fibers::changed();",
        "release",
    )
    process, _ = threads.start(draw(SMALL), 1, Card(3), program=broken)
    assert process.returncode != 0
    assert "data race" in process.stderr


def test_a_plan_for_more_blocks_than_the_card_holds_is_caught(plain: DeviceProgram) -> None:
    """The planner reckons with two blocks a multiprocessor, of which this card holds but one."""
    right = "kBlocksPerMultiprocessor = 2"
    broken = plain.with_kernels("power_iteration_plan.h", right, right.replace("2", "1"), "resident")
    process, _ = plain.start(draw(MIXED), 1, Card(3), program=broken)
    assert process.returncode != 0
    assert "too many blocks" in process.stderr
