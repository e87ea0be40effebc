"""Bugs planted in the kernels of wide convolutions: what copies and products on tensor cores can get wrong.

Each must show as what it is.
"""

from __future__ import annotations

import pytest
from device_checks import WIDE, assert_agrees_on_tensor_cores, draw
from device_program import TENSOR, Bug, Card, DeviceProgram, Network
from power_iteration_bugs import VALUES, WIDE_BUGS, of_program

# Two stages of one chunk fit, or three of several: tiles of both kinds.
CARDS = [Card(3, cores=TENSOR), Card(3, 228 << 10, 227 << 10, 1 << 10, 9, 0, TENSOR)]


@pytest.mark.parametrize("bug", WIDE_BUGS.values(), ids=WIDE_BUGS.keys())
def test_a_planted_bug_is_caught(bug: Bug, request: pytest.FixtureRequest) -> None:
    program: DeviceProgram = request.getfixturevalue(bug.program)
    layers = ["5 x 5"] if bug.program == "threads" else ["channels beyond the tiles", "many channels", "one dimension"]
    network = draw([WIDE[name] for name in layers])
    assert any(shows(bug, program, network, card) for card in CARDS)


def shows(bug: Bug, program: DeviceProgram, network: Network, card: Card) -> bool:
    bugs = of_program(bug.program)
    process, result = program.start(network, 2, card, program=program.with_bugs(bugs), bug=bugs.index(bug))
    if bug.shows != VALUES:
        return process.returncode != 0 and bug.shows in process.stderr
    assert process.returncode == 0, process.stderr
    try:
        assert_agrees_on_tensor_cores(program.read(network, result), network, 2)
    except AssertionError:
        return True
    return False
