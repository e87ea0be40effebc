"""A checker is trusted only after it has caught planted bugs: in the CUDA kernels of power iteration and their planner.

Each bug must show as what it is: wrong values, other bits in another order of blocks and threads, or a complaint of the
fibers or a sanitizer.
"""

from __future__ import annotations

import pytest
from device_checks import SMALL, assert_agrees, draw
from device_program import Bug, Card, DeviceProgram, Network, Outcome
from power_iteration_bugs import BUGS, ORDERS, VALUES, of_program
from power_iteration_layers import MIXED


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_planted_bug_is_caught(bug: Bug, request: pytest.FixtureRequest) -> None:
    program: DeviceProgram = request.getfixturevalue(bug.program)
    bugs = of_program(bug.program)
    broken, number = program.with_bugs(bugs), bugs.index(bug)
    network = draw(SMALL if bug.program == "threads" else [*SMALL, *MIXED[2:]])
    outcomes = []
    for schedule in (0, 1, 7):
        card = Card(bug.multiprocessors)
        process, result = program.start(network, 2, card, schedule, bug.resident, broken, number)
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


def test_bugs_that_are_not_switched_on_change_nothing(plain: DeviceProgram) -> None:
    network = draw([*SMALL, *MIXED[2:]])
    process, result = plain.start(network, 2, Card(5), program=plain.with_bugs(of_program("plain")))
    assert process.returncode == 0, process.stderr
    assert plain.read(network, result).raw == plain.run(network, 2, Card(5)).raw
