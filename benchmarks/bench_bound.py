"""The Lipschitz estimate of a whole net: T = 5 with its gradient, and to convergence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks import compiled, eager
from benchmarks.bound_jobs import ITERATIONS, MATRIX, call, eager_loop, flops, ours, sgemm
from benchmarks.budget import Budget
from benchmarks.conftest import Measure
from benchmarks.interleaving import Job
from benchmarks.networks import NETWORKS
from benchmarks.record import COST, RATE, SPEEDUP, Comparison
from gloro_fast.bounds import bound_network
from gloro_fast.bounds.power import MAX_ITERATIONS, TOLERANCE
from gloro_fast.ops import Geometry
from gloro_fast.rules.registry import LinearMap

REPEAT = 5  # a call for 2C2F takes less than a millisecond, half of it where the caches are cold
GOALS = {"2C2F": 10.0, "4C3F": 4.0, "6C2F": 3.0}
BLOCKS, WIDTH, SIDE = 12, 64, 16
DESCRIBED = {
    "gloro_fast": "ops.power_iteration, all layers in one call",
    "eager": "loop over layers: conv2d, conv_transpose2d, norm",
    compiled.NAME: "that loop compiled",
    "call": "the call for as many layers of one feature",
}
SGEMM = f"product of {MATRIX} x {MATRIX} float32 matrices by ops.dense"


@pytest.mark.parametrize("name", NETWORKS)
def test_bound_with_gradient(name: str, measure: Measure, device: torch.device, budget: Budget) -> None:
    maps = NETWORKS[name].linear_maps(device)
    weights, geometries = [linear.weight for linear in maps], [linear.geometry for linear in maps]
    contenders: dict[str, Job] = {
        "gloro_fast": ours(weights, geometries, weights),
        "eager": eager_loop(weights, geometries, weights),
        "sgemm": sgemm(device),
        "call": call(maps),
    }
    left_out: dict[str, str] = {}
    compiled.add_compiled(
        contenders,
        left_out,
        lambda: eager_loop(weights, geometries, weights, compile=True),
        budget=budget,
        here=name != "4C3F",
    )
    measure(
        f"bound with gradient, T = {ITERATIONS}",
        f"{name}, {len(maps)} layers",
        contenders,
        [
            Comparison("eager", SPEEDUP, GOALS[name]),
            Comparison(compiled.NAME, SPEEDUP),
            Comparison("sgemm", RATE),
            Comparison("call", COST),
        ],
        described={**DESCRIBED, "sgemm": f"{SGEMM}, {torch.get_num_threads()} threads"},
        seconds=8,
        repeat=REPEAT,
        left_out=left_out,
        work={"gloro_fast": flops(maps), "eager": flops(maps), "sgemm": 2.0 * MATRIX**3},
    )


def test_bound_of_equal_layers(measure: Measure, device: torch.device) -> None:
    """The residual blocks x + conv(x) of a LiResNet: equal shapes, so that one grouped convolution does them all."""
    geometry = Geometry((WIDTH, SIDE, SIDE), (1, 1), ((1, 1), (1, 1)), (1, 1))
    convolutions = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False).to(device).weight for _ in range(BLOCKS)]
    identity = nn.init.dirac_(torch.empty_like(convolutions[0]))
    geometries = [geometry] * BLOCKS

    def merged() -> list[Tensor]:
        return [weight + identity for weight in convolutions]

    iterates = torch.cat(eager.start(geometries, device), dim=1)

    def grouped() -> None:
        sigma = eager.grouped_spectral_norms(merged(), iterates, geometry, ITERATIONS)
        torch.autograd.grad(sigma.prod(), convolutions)

    maps = [LinearMap(weight, geometry) for weight in merged()]
    contenders: dict[str, Job] = {
        "gloro_fast": ours(merged, geometries, convolutions),
        "grouped": grouped,
        "eager": eager_loop(merged, geometries, convolutions),
        "sgemm": sgemm(device),
    }
    operations = flops(maps)
    measure(
        f"bound with gradient, T = {ITERATIONS}",
        f"LiResNet stack, {BLOCKS} linear residual blocks, width {WIDTH}, {SIDE}x{SIDE}",
        contenders,
        [
            Comparison("grouped", SPEEDUP, 1.0),
            Comparison("eager", SPEEDUP),
            Comparison("sgemm", RATE),
        ],
        described={
            "gloro_fast": DESCRIBED["gloro_fast"],
            "eager": DESCRIBED["eager"],
            "grouped": f"all blocks as one convolution of {BLOCKS} groups",
            "sgemm": f"{SGEMM}, {torch.get_num_threads()} threads",
        },
        seconds=8,
        repeat=REPEAT,
        work={"gloro_fast": operations, "grouped": operations, "eager": operations, "sgemm": 2.0 * MATRIX**3},
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_bound_to_convergence(name: str, measure: Measure, device: torch.device, quick: bool) -> None:
    if quick and name != "2C2F":
        pytest.skip("left out of the quick run")
    maps = NETWORKS[name].linear_maps(device)
    named = [(str(index), linear) for index, linear in enumerate(maps)]
    iterations = [layer.iterations for layer in bound_network(named, "power").layers]

    @torch.no_grad()
    def loop() -> None:
        for linear in maps:
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(linear.geometry.input_shape, generator=generator, dtype=torch.float64)
            start = (start / torch.linalg.vector_norm(start)).to(device)
            eager.converged_norm(linear.weight.double(), linear.geometry, start, TOLERANCE, MAX_ITERATIONS)

    measure(
        "bound to convergence",
        f"{name}, tolerance {TOLERANCE:g}",
        {"gloro_fast": lambda: bound_network(named, "power"), "eager": loop},
        [Comparison("eager", SPEEDUP)],
        described={
            "gloro_fast": f"bound_network(..., 'power'), {iterations} iterations",
            "eager": "loop over layers in float64, same start and stopping rule",
        },
        seconds=10,
    )


def test_sgemm(measure: Measure, device: torch.device) -> None:
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        pytest.skip("there is one number of threads only")
    multiply = sgemm(device)

    def on_one_thread() -> None:
        torch.set_num_threads(1)
        multiply()
        torch.set_num_threads(threads)

    flops = 2.0 * MATRIX**3
    measure(
        "sgemm",
        SGEMM,
        {"all threads": multiply, "1 thread": on_one_thread},
        [Comparison("1 thread", SPEEDUP)],
        described={"all threads": f"{threads} threads", "1 thread": "1 thread"},
        seconds=3,
        work={"all threads": flops, "1 thread": flops},
    )
