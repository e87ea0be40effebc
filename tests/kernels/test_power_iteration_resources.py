"""Registers and stack of the built CUDA kernels on every architecture, and the blocks that a card holds at once."""

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

RECORD = HERE.parents[1] / "docs" / "power_iteration_resources.json"
KERNELS = ("power_iteration_kernel", "power_iteration_gradient_kernel")
SLACK = 8  # registers by which another version of the compiler may differ


@cache
def resources() -> dict[str, dict[str, dict[str, int]]]:
    """By architecture and kernel: registers of a thread, bytes of stack and local memory (0: no spills)."""
    listing = subprocess.run(
        [cuda_tool("cuobjdump"), "-res-usage", str(library())], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, dict[str, dict[str, int]]] = {}
    architecture = ""
    for line, after in zip(listing.splitlines(), [*listing.splitlines()[1:], ""], strict=True):
        architecture = line.split("=")[1].strip() if line.startswith("arch = ") else architecture
        for kernel in KERNELS:
            if re.search(rf"Function \w*\d{kernel}", line):
                usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", after)}
                numbers = {"registers": usage["REG"], "spilled bytes": usage["STACK"] + usage["LOCAL"]}
                found.setdefault(architecture, {})[kernel] = numbers
    return found


def test_no_spills_and_registers_as_recorded() -> None:
    recorded = json.loads(RECORD.read_text())
    built = resources()
    assert built
    for architecture, kernels in built.items():
        for kernel, numbers in kernels.items():
            assert numbers["spilled bytes"] == 0, (architecture, kernel)
            if architecture in recorded:
                assert abs(numbers["registers"] - recorded[architecture][kernel]["registers"]) <= SLACK


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
    multiprocessors, shared, _, _, major, minor = card
    (plan,) = planner.plan_power_iteration(numbers_of(name), card)
    registers = resources()[f"sm_{major}{minor}"]["power_iteration_kernel"]["registers"]

    def resident(shared_bytes: int) -> int:
        numbers = (major, minor, registers, planner.THREADS, shared_bytes, shared)
        run = subprocess.run([str(calculator), *map(str, numbers)], capture_output=True, text=True, check=True)
        return int(run.stdout) * multiprocessors

    assert plan.blocks <= resident(plan.shared_bytes)
    # Were the layouts half of a multiprocessor's memory, what the system reserves would not fit beside them.
    assert resident(shared // 2) < planner.BLOCKS_PER_MULTIPROCESSOR * multiprocessors
