"""Registers, shared memory and spills of the built CUDA kernels, and the blocks that a card holds at once.

They are read from the machine code in the library, with cuobjdump, not from what ptxas says when it compiles
(-Xptxas -v): the numbers are the same, they are those of the library that runs, and a build that had nothing to compile
says nothing. Spills lie in the stack frame, which the machine code names as STACK; a test compiles a kernel that spills
and compares both.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from device_program import HERE, compiler
from simulated_launch import cuda_tool, library
from test_power_iteration_planner import CARDS, NETWORKS, numbers_of, planner

RECORD = json.loads((HERE.parents[1] / "docs" / "power_iteration_resources.json").read_text())
KERNELS = (
    "power_iteration_kernel",
    "power_iteration_wide_kernel",
    "power_iteration_gradient_kernel",
    "power_iteration_wide_gradient_kernel",
)
SLACK = 8  # registers by which another version of the compiler may differ


def usage_of(file: Path) -> dict[str, dict[str, dict[str, int]]]:
    """By architecture and function: registers of a thread, bytes of stack and local memory, static shared bytes.

    From sm_90 on the latter are the 1024 that the system reserves of a block.
    """
    listing = subprocess.run(
        [cuda_tool("cuobjdump"), "-res-usage", str(file)], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, dict[str, dict[str, int]]] = {}
    architecture = function = ""
    for line in listing.splitlines():
        if line.startswith("arch = "):
            architecture = line.split("=")[1].strip()
        elif named := re.search(r"Function (\w+):", line):
            function = named[1]
        elif "REG:" in line:
            usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", line)}
            found.setdefault(architecture, {})[function] = {
                "registers": usage["REG"],
                "spilled bytes": usage["STACK"] + usage["LOCAL"],
                "static shared bytes": usage["SHARED"],
            }
    return found


@cache
def resources() -> dict[str, dict[str, dict[str, int]]]:
    """The usage of the kernels of the library by architecture."""

    def kernel(function: str) -> str | None:
        return next((name for name in KERNELS if re.search(rf"\d{name}", function)), None)

    return {
        architecture: {name: usage for function, usage in functions.items() if (name := kernel(function))}
        for architecture, functions in usage_of(library()).items()
    }


def test_no_spills_and_registers_as_recorded() -> None:
    built = resources()
    assert built
    for architecture, kernels in built.items():
        assert kernels.keys() == set(KERNELS)
        for kernel, usage in kernels.items():
            assert usage["spilled bytes"] == 0, (architecture, kernel)
            if architecture in RECORD["kernels"]:
                recorded = RECORD["kernels"][architecture][kernel]
                assert usage["static shared bytes"] == recorded["static shared bytes"]
                assert abs(usage["registers"] - recorded["registers"]) <= SLACK


@pytest.mark.parametrize("card", CARDS)
def test_planned_shared_memory_as_recorded(card: str) -> None:
    """Of a block of the power iteration, and how many blocks there are."""
    planned = {}
    for name in NETWORKS:
        (plan,) = planner.plan_power_iteration(numbers_of(name), CARDS[card])
        planned[name] = {"blocks": plan.blocks, "shared bytes": plan.shared_bytes}
    assert planned == RECORD["plans"][card]


def test_spills_are_seen(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    source, code = tmp_path / "spilling.cu", tmp_path / "spilling.cubin"
    source.write_text(
        "__global__ void spilling(float* x) {\n  float kept[48];\n#pragma unroll\n"
        "  for (int i = 0; i < 48; ++i) kept[i] = x[32 * i];\n  __syncthreads();\n#pragma unroll\n"
        "  for (int i = 0; i < 48; ++i) x[32 * i] = kept[i] * kept[47 - i];\n}\n"
    )
    flags = ["-arch=sm_86", "-maxrregcount=24", "-Xptxas=-v", "-cubin", str(source), "-o", str(code)]
    said = subprocess.run([nvcc, *flags], capture_output=True, text=True, check=True).stderr
    registers, frame, stores = (
        int(re.search(pattern, said)[1])  # type: ignore[index]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack frame", r"(\d+) bytes spill stores")
    )
    assert frame >= stores > 0
    (functions,) = usage_of(code).values()
    (usage,) = functions.values()
    assert usage == {"registers": registers, "spilled bytes": frame, "static shared bytes": 0}


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nvcc = shutil.which("nvcc")
    homes = [Path("/usr/local/cuda"), *([Path(nvcc).resolve().parents[1]] if nvcc else [])]
    include = next((home / "include" for home in homes if (home / "include" / "cuda_occupancy.h").exists()), None)
    if include is None:
        pytest.skip("needs cuda_occupancy.h of the CUDA toolkit")
    program = tmp_path_factory.mktemp("occupancy") / "occupancy"
    flags = ["-std=c++17", "-isystem", str(include), str(HERE / "occupancy.cpp"), "-o", str(program)]
    subprocess.run([*compiler(), *flags], check=True)
    return program


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
@pytest.mark.parametrize("name", NETWORKS)
def test_the_planned_blocks_are_resident_at_once(name: str, card: tuple[int, ...], calculator: Path) -> None:
    multiprocessors, shared, _, _, major, minor, _ = card
    (plan,) = planner.plan_power_iteration(numbers_of(name), card)
    kernel = "power_iteration_wide_kernel" if plan.wide else "power_iteration_kernel"
    registers = resources()[f"sm_{major}{minor}"][kernel]["registers"]

    def resident(shared_bytes: int) -> int:
        numbers = (major, minor, registers, planner.THREADS, shared_bytes, shared)
        run = subprocess.run([str(calculator), *map(str, numbers)], capture_output=True, text=True, check=True)
        return int(run.stdout) * multiprocessors

    assert plan.blocks <= resident(plan.shared_bytes)
    # Were the layouts half of a multiprocessor's memory, what the system reserves would not fit beside them.
    assert resident(shared // 2) < planner.BLOCKS_PER_MULTIPROCESSOR * multiprocessors
