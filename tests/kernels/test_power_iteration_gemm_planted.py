"""Bugs planted in the kernels of wide convolutions: what copies and products on tensor cores can get wrong.

Each is compiled into the program of device_program.py and must show as what it is.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from device_checks import WIDE, assert_agrees_on_tensor_cores, draw
from device_program import TENSOR, Card, DeviceProgram, Network
from test_power_iteration_planted import VALUES, Bug

FORGOTTEN = "copies under way, for which it never waited"
# Two stages of one chunk fit, or three of several: tiles of both kinds.
CARDS = [Card(3, cores=TENSOR), Card(3, 228 << 10, 227 << 10, 1 << 10, 9, 0, TENSOR)]
GEMM, GRADIENT = "power_iteration_gemm.cuh", "power_iteration_gemm_gradient.cuh"
BUGS = {
    "no wait for copies": Bug(GEMM, "        wait_for_step(ahead);\n", "", "plain", FORGOTTEN),
    "a wait that leaves a group too many": Bug(
        "power_iteration_fragments.cuh",
        "wait_for_copies<0>();\n  else\n    wait_for_copies<1>();",
        "wait_for_copies<1>();\n  else\n    wait_for_copies<2>();",
        "plain",
        FORGOTTEN,
    ),
    "no barrier after the wait": Bug(
        GEMM,
        "        __syncthreads();  // for the copies of the others, and until they no longer read what the next copies"
        " overwrite\n",
        "",
        "threads",
        "data race",
    ),
    "a stage overwritten while it is read": Bug(
        GEMM, "const int ahead = tiling.stages - 1;", "const int ahead = tiling.stages;", "plain", VALUES
    ),
    "a window overwritten while it is read": Bug(
        "power_iteration_gemm_tiling.cpp",
        "ceil_div(stages - 1, ceil_div(few_taps, step_taps)) + 1)",
        "ceil_div(stages - 1, ceil_div(few_taps, step_taps)))",
        "plain",
        VALUES,
    ),
    "sums joined over what others still read": Bug(
        GEMM,
        "    __syncthreads();\n    const WarpPlace place(tiling);",
        "    const WarpPlace place(tiling);",
        "threads",
        "data race",
    ),
    "rows of a fragment swapped": Bug(
        GEMM, "a[2 * m][k], a[2 * m + 1][k],", "a[2 * m + 1][k], a[2 * m][k],", "plain", VALUES
    ),
    "terms of a fragment in another order": Bug(
        GEMM, "add(n + i, 0, b[0], b[1]);", "add(n + i, 0, b[1], b[0]);", "plain", VALUES
    ),
    "units of transposed weights not swapped back": Bug(
        GEMM, "4 * (place.g ^ (2 * place.t))", "4 * place.g", "plain", VALUES
    ),
    "units of weights not swapped back": Bug(
        GEMM, "const int odd = (place.g & 1) * kSlice;", "const int odd = 0;", "plain", VALUES
    ),
    "columns in another order": Bug(
        GEMM,
        "const int channel = item.channel + place.column + half / 2 * 32 + 8 * place.t + half % 2 * 4;",
        "const int channel = item.channel + place.column + half / 2 * 32 + 4 * place.t + half % 2 * 16;",
        "plain",
        VALUES,
    ),
    "no zeros beyond the picture": Bug(GEMM, "iy < item.in_height && ", "", "plain", VALUES),
    "no zeros beyond the channels": Bug(
        "power_iteration_pack.cuh",
        "real ? load_weight(layer.weight, layer.type, at) : 0.0f",
        "load_weight(layer.weight, layer.type, at)",
        "addresses",
        "heap-buffer-overflow",
    ),
    "the scale forgotten": Bug(GEMM, "a[p][k] *= scale;", "a[p][k] *= 1;", "plain", VALUES),
    "the last product cut like the others": Bug(
        "power_iteration.cuh", "step == 2 * launch.iterations)", "step < 0)", "plain", VALUES
    ),
    "gradient: no wait for copies": Bug(GRADIENT, "    wait_for_step(ahead);\n", "", "plain", FORGOTTEN),
    "gradient: a stage overwritten while it is read": Bug(
        GRADIENT, "ahead = stages - 1;", "ahead = stages;", "plain", VALUES
    ),
    "gradient: no zeros beside the picture": Bug(
        GRADIENT, " && ix >= 0 && ix < layer.width.input;", ";", "plain", VALUES
    ),
    "gradient: halves of a fragment swapped": Bug(
        GRADIENT,
        "a[0][2 * m], a[0][2 * m + 1], a[1][2 * m],",
        "a[1][2 * m], a[0][2 * m + 1], a[0][2 * m],",
        "plain",
        VALUES,
    ),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_planted_bug_is_caught(bug: Bug, request: pytest.FixtureRequest) -> None:
    program: DeviceProgram = request.getfixturevalue(bug.program)
    level = "-O0" if bug.program == "addresses" else "-O1"
    broken = program.with_bug(bug.file, bug.right, bug.wrong, level)
    layers = ["5 x 5"] if bug.program == "threads" else ["channels beyond the tiles", "many channels", "one dimension"]
    network = draw([WIDE[name] for name in layers])
    assert any(shows(bug, program, broken, network, card) for card in CARDS)


def shows(bug: Bug, program: DeviceProgram, broken: Path, network: Network, card: Card) -> bool:
    process, result = program.start(network, 2, card, program=broken)
    if bug.shows != VALUES:
        return process.returncode != 0 and bug.shows in process.stderr
    assert process.returncode == 0, process.stderr
    try:
        assert_agrees_on_tensor_cores(program.read(network, result), network, 2)
    except AssertionError:
        return True
    return False
