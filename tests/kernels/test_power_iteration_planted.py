"""A checker is trusted only after it has caught planted bugs: in the CUDA kernels of power iteration and their planner.

Each bug is compiled into the program of device_program.py and must show as what it is: wrong values, other bits in
another order of blocks and threads, or a complaint of the fibers or a sanitizer.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from device_checks import SMALL, assert_agrees, draw
from device_program import Card, DeviceProgram, Network, Outcome
from power_iteration_layers import MIXED

VALUES, ORDERS = "wrong values", "other bits in another order"


class Bug(NamedTuple):
    """What stands in ``file`` of csrc/cuda, what takes its place, with which program it is caught, and how it shows."""

    file: str
    right: str
    wrong: str
    program: str
    shows: str
    resident: int = 2


BUGS = {
    "missing barrier": Bug("power_iteration.cuh", "      group.barrier();\n", "", "plain", VALUES),
    "barrier that does not wait": Bug(
        "power_iteration.cuh", "      while (arrived(arrivals) < target) {\n      }\n", "", "plain", VALUES
    ),
    # The fence is in the words that the harness gives the kernels: the bug says a weaker one.
    "missing fence": Bug(
        "power_iteration.cuh",
        "      arrive(arrivals);",
        "      __atomic_fetch_add(arrivals, 1u, __ATOMIC_RELAXED);\n      fibers::changed();",
        "threads",
        "data race",
    ),
    "wrong padding of the adjoint": Bug(
        "power_iteration_item.cuh",
        "const int reach = phase + axis.padding;",
        "const int reach = phase + axis.padding + axis.stride;",
        "plain",
        VALUES,
    ),
    "tile off by one": Bug(
        "power_iteration_item.cuh",
        "view.outputs = min(most, axis.output - start);",
        "view.outputs = min(most - 1, axis.output - start);",
        "plain",
        VALUES,
    ),
    "row off by one": Bug(
        "power_iteration_dense.cuh",
        "if (first_row + r >= rows) continue;",
        "if (first_row + r > rows) continue;",
        "addresses",
        "heap-buffer-overflow",
    ),
    # What atomicAdd would do: every thread adds to one sum when its turn comes. A fiber's += is not interrupted.
    "sums in the order of arrival": Bug(
        "power_iteration_dense.cuh",
        """    for (int i = 0; i < Unit::kCount; ++i) joined[down * kStrip + along * Unit::kCount + i] = sums[i];
    __syncthreads();
    float result[1] = {};
    if (thread < kStrip && item * kStrip + thread < columns) {
      for (int d = 0; d < kDown; ++d) result[0] += joined[d * kStrip + thread];
""",
        """    for (int i = thread; i < kStrip; i += kThreads) joined[i] = 0;
    __syncthreads();
    for (int i = 0; i < Unit::kCount; ++i) joined[along * Unit::kCount + i] += sums[i];
    __syncthreads();
    float result[1] = {};
    if (thread < kStrip && item * kStrip + thread < columns) {
      result[0] = joined[thread];
""",
        "plain",
        ORDERS,
    ),
    "shared memory reused too early": Bug(
        "power_iteration_conv.cuh",
        "min((place.split + 1) * share, terms));\n      __syncthreads();",
        "min((place.split + 1) * share, terms));",
        "threads",
        "data race",
    ),
    "more blocks than the card holds": Bug(
        "power_iteration_residency.cpp",
        "held = std::min(held, driver.resident_blocks(plan.shared_bytes))",
        "static_cast<void>(plan)",
        "plain",
        "too many blocks in cooperative launch",
        resident=1,
    ),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_planted_bug_is_caught(bug: Bug, request: pytest.FixtureRequest) -> None:
    program: DeviceProgram = request.getfixturevalue(bug.program)
    broken = program.with_bug(bug.file, bug.right, bug.wrong)
    network = draw(SMALL if bug.program == "threads" else [*SMALL, *MIXED[2:]])
    outcomes = []
    for schedule in (0, 1, 7):
        process, result = program.start(network, 2, Card(5), schedule, bug.resident, broken)
        if bug.shows not in (VALUES, ORDERS):
            assert process.returncode != 0
            assert bug.shows in process.stderr
            return
        assert process.returncode == 0, process.stderr
        outcomes.append(program.read(network, result))
    if bug.shows == ORDERS:
        assert_all_agree(outcomes, network)
        assert len({outcome.raw for outcome in outcomes}) > 1
    else:
        with pytest.raises(AssertionError):
            assert_all_agree(outcomes, network)


def assert_all_agree(outcomes: list[Outcome], network: Network) -> None:
    for outcome in outcomes:
        assert_agrees(outcome, network, 2)
