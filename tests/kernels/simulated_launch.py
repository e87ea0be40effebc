"""Runs a CUDA kernel of the built library in the PTX simulator, its parameter a structure by value with addresses."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_gpu import SIMULATOR

from gloro_fast.native import extension


def cuda_tool(name: str) -> str:
    """cuobjdump and its like: of the CUDA toolkit, or of triton's wheel."""
    found = shutil.which(name)
    if found is None:
        triton = importlib.util.find_spec("triton")
        if triton is not None and triton.origin is not None:
            candidate = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
            found = str(candidate) if candidate.exists() else None
    if found is None:
        pytest.skip(f"needs {name}, from the CUDA toolkit or triton's wheel")
    return found


def library() -> Path:
    """The ops library with its CUDA kernels."""
    facts = extension.facts()
    if not facts.get("cuda_architectures"):
        pytest.skip("the extension was built without CUDA")
    return Path(facts["library"])


@cache
def ptx_of(kernel: str) -> tuple[str, str]:
    """The PTX that the library carries for architectures to come, and the full name of the kernel in it."""
    listing = subprocess.run(
        [cuda_tool("cuobjdump"), "-ptx", str(library())], capture_output=True, text=True, check=True
    )
    for module in listing.stdout.split("Fatbin ptx code:"):
        match = re.search(rf"\.entry\s+(\w*\d+{kernel}\w*)\(", module)
        if match:
            return module[module.index(".version") :], match.group(1)
    raise AssertionError(f"{kernel} is not in the library")


@cache
def _simulator() -> Any:
    assert SIMULATOR is not None
    spec = importlib.util.spec_from_file_location("ptx_sim", Path(SIMULATOR) / "ptx_sim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def address(index: int) -> int:
    """Where the array number ``index`` of a launch lies."""
    return (index + 2) << 40


class Launch:
    """One launch; ``traffic`` has its bytes, the parameter apart.

    ``wide_loads``: how often eight lanes loaded 16 bytes each of shared memory, and how many of these times lanes met a
    bank that another one reads elsewhere.
    """

    def __init__(
        self, kernel: str, parameter: bytes, arrays: list[np.ndarray], blocks: int, threads: int, shared: int
    ) -> None:
        ptx, entry = ptx_of(kernel)
        simulation = _with_parameter()(ptx, entry)
        name = simulation.params[0][0]
        simulation.parameter = name
        simulation.halves = {i + 2 for i, array in enumerate(arrays) if array.itemsize == 2}
        simulation.params = [(name, "u64", 8), *((f"array{i}", "u64", 8) for i in range(len(arrays)))]
        simulation.launch([np.frombuffer(parameter, np.uint8).copy(), *arrays], (blocks,), (threads,), shared)
        self.traffic: dict[str, int] = simulation.traffic
        self.wide_loads: tuple[int, int] = simulation.wide_loads


@cache
def _with_parameter() -> Any:
    module = _simulator()

    class WithParameter(module.Sim):  # type: ignore[misc]
        """A parameter by value is memory of its own, read at addresses that are computed."""

        parameter = ""
        waits = False
        halves: frozenset[int] = frozenset()  # arrays of 2-byte elements
        wide_loads = (0, 0)

        def get(self, s: str, ty: str) -> Any:
            if s.strip() == self.parameter:
                return lambda a: np.full(len(a), 1 << 40, np.uint64).astype(module.DT[ty])
            return super().get(s, ty)

        def address(self, s: str, space: str) -> Any:
            inner = re.fullmatch(r"\[\s*([\w$]+)\s*(?:\+\s*(\d+))?\s*\]", s.strip())
            if inner is not None and inner[1] == self.parameter:
                return lambda a: np.full(len(a), (1 << 40) + int(inner[2] or 0), np.int64)
            return super().address(s, space)

        def compile(self, i: Any) -> Any:
            if "param" in i.op:
                i.op = [part for part in i.op if part != "param"]
            run = super().compile(i)
            if "release" in i.op and i.op[0] == "st":
                at = self.address(i.args[0], "global")

                def publish(a: Any) -> None:
                    # The simulator orders blocks by atomics, and takes a store for a race with those that wait for it.
                    self.sync(i, a, at(a))
                    self.race, races = False, self.race
                    run(a)
                    self.race = races

                return publish
            if "acquire" not in i.op:
                return run

            def wait(a: Any) -> None:
                # How often a waiting block looks depends on the simulator, and moves nothing but its own counter.
                self.waits = True
                run(a)
                self.waits = False

            return wait

        def note(self, i: Any, a: Any, key: Any, off: Any, size: int, *rest: Any) -> None:
            # The race detector looks at words of 4 bytes, which two halves share: it is shown them twice as wide.
            if key not in self.halves:
                return super().note(i, a, key, off, size, *rest)
            if key not in self.shadow:
                count = len(self.bufs[key]) // 2 + 4
                self.shadow[key] = [[np.full(count, -1, np.int64) for _ in range(3)] for _ in range(2)]
            return super().note(i, a, key, off * 2, size * 2, *rest)

        def load(self, i: Any, a: Any, space: str, addr: Any, dt: Any, n: int) -> Any:
            if space == "shared" and dt.itemsize * n == 16:
                eights = a // 8
                units = np.unique(np.stack([eights, addr // 16]), axis=1)
                banks = np.unique(np.stack([units[0], units[1] % 8]), axis=1)
                met = units.shape[1] - banks.shape[1]
                self.wide_loads = (self.wide_loads[0] + len(np.unique(eights)), self.wide_loads[1] + met)
            return super().load(i, a, space, addr, dt, n)

        def count(self, kind: str, a: Any, key: Any, off: Any, size: int) -> None:
            if key != 1 and not self.waits:
                super().count(kind, a, key, off, size)

    return WithParameter
