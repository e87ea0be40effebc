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
    multiprocessors: int = 5


BUGS = {
    "missing barrier": Bug(
        "power_iteration_group.cuh", "if (layer.blocks == 1) return mine;", "return mine;", "plain", VALUES
    ),
    "barrier that does not wait": Bug(
        "power_iteration_group.cuh",
        "while ((word & kPhaseBits) != phase) word = published(words + block);",
        "",
        "plain",
        VALUES,
    ),
    "phases that are not told apart": Bug(
        "power_iteration_group.cuh", "phase = 1 + step / 2 % 2;", "phase = 1;", "plain", VALUES
    ),
    "the norm of one block": Bug(
        "power_iteration_group.cuh", "return sum_over_warp(sum);", "return mine;", "plain", VALUES
    ),
    # The fence is in the words that the harness gives the kernels: the bug says a weaker one.
    "missing fence": Bug(
        "power_iteration_group.cuh",
        "publish(words + (static_cast<int>(blockIdx.x) - layer.first_block), (bits & ~kPhaseBits) | phase);",
        "__atomic_store_n(words + (static_cast<int>(blockIdx.x) - layer.first_block), (bits & ~kPhaseBits) | phase,"
        " __ATOMIC_RELAXED);\n    fibers::changed();",
        "threads",
        "data race",
    ),
    "words that are not cleared": Bug(
        "power_iteration_group.cuh",
        "layer.squares_u[block] = layer.squares_v[block] = 0;",
        "layer.squares_u[block] = layer.squares_v[block] = 1;",
        "plain",
        VALUES,
    ),
    # What is stale, or was never written, is a table of places, too.
    "weights that stay where they must not": Bug(
        "power_iteration.cuh", "!tiling.resident || step < 2;", "step < 2;", "addresses", "runtime error"
    ),
    "resident weights of one product only": Bug(
        "power_iteration.cuh",
        "!tiling.resident || step < 2;",
        "!tiling.resident || step < 1;",
        "addresses",
        "runtime error",
    ),
    "copies that nobody waits for": Bug(
        "power_iteration_conv.cuh", "      wait_for_copies<0>();\n", "", "plain", "copies under way"
    ),
    "an item found while others write the one before": Bug(
        "power_iteration_conv.cuh",
        "      __syncthreads();\n      if (threadIdx.x == 0) board.item",
        "      if (threadIdx.x == 0) board.item",
        "plain",
        VALUES,
        multiprocessors=1,
    ),
    "sums joined while others write them": Bug(
        "power_iteration_tile.cuh", "    if (half > 0) __syncthreads();\n", "", "threads", "data race"
    ),
    "half of the joined sums": Bug(
        "power_iteration_tile.cuh",
        "if (k < part.count) values[k] +=",
        "if (k < part.count / 2) values[k] +=",
        "plain",
        VALUES,
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
        "if (column < count && first_row + r < rows)",
        "if (column < count && first_row + r <= rows)",
        "addresses",
        "heap-buffer-overflow",
    ),
    # What atomicAdd would do: every thread adds to one sum when its turn comes. A fiber's += is not interrupted.
    "sums in the order of arrival": Bug(
        "power_iteration_dense.cuh",
        """    for (int i = 0; i < Unit::kCount; ++i) joined[down * strip + along * Unit::kCount + i] = sums[i];
    __syncthreads();
    float result[1] = {};
    if (thread < strip && item * strip + thread < columns) {
      for (int d = 0; d < row_step; ++d) result[0] += joined[d * strip + thread];
""",
        """    for (int i = thread; i < strip; i += kThreads) joined[i] = 0;
    __syncthreads();
    for (int i = 0; i < Unit::kCount; ++i) joined[along * Unit::kCount + i] += sums[i];
    __syncthreads();
    float result[1] = {};
    if (thread < strip && item * strip + thread < columns) {
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
        "if (resident < plan.blocks_per_multiprocessor) held = std::min(held, resident);",
        "static_cast<void>(resident);",
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
        process, result = program.start(network, 2, Card(bug.multiprocessors), schedule, bug.resident, broken)
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
