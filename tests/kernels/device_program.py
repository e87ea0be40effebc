"""Builds power_iteration_device.cpp, which runs the CUDA kernels of power iteration on the CPU, and talks to it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from filelock import FileLock
from switched_bugs import DEFINITION, plant
from torch import Tensor

from gloro_fast.ops import Geometry
from gloro_fast.ops.power_iteration_op import layer_numbers

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
SANITIZERS = {
    "none": [],
    "address": ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-g1", "-fsanitize=thread"],
}
PLANNER = ["cost", "planner", "residency", "tiling", "gemm_tiling"]
FIBERS = ["fiber.cpp", "fibers.cpp"]
KERNELS = HERE / "power_iteration_device.cpp"


class Card(NamedTuple):
    """What the planner knows of a card."""

    multiprocessors: int
    shared_bytes: int = 100 << 10
    shared_bytes_per_block: int = 99 << 10
    reserved_bytes_per_block: int = 1 << 10
    major: int = 8
    minor: int = 6
    cores: int = 0  # on which convolutions run: the fastest, PLAIN or TENSOR


PLAIN, TENSOR = 1, 2


@dataclass
class Network:
    """Layers with their weights and iterates."""

    weights: list[Tensor]
    v: list[Tensor]
    geometries: list[Geometry]

    def numbers(self) -> list[int]:
        return layer_numbers(self.weights, self.geometries)


class Outcome(NamedTuple):
    """What both launches give, and the bytes of it all."""

    sigma: Tensor
    v: list[Tensor]
    u: list[Tensor]
    gradients: list[Tensor]
    raw: bytes


def compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no C++ compiler ({command[0]})")
    return command


class Bug(NamedTuple):
    """A bug of the kernels or their planner, with which program it is caught, and how it shows.

    Attributes:
        file: in csrc/cuda.
        right: what stands there once.
        wrong: what takes its place: does the same unless ``BUG`` is true.
        program: the name of a fixture of a DeviceProgram.
        shows: a part of the complaint, VALUES or ORDERS.
        resident: blocks that a multiprocessor of the card holds.
        multiprocessors: of the card.
    """

    file: str
    right: str
    wrong: str
    program: str
    shows: str
    resident: int = 2
    multiprocessors: int = 5

    def is_planner(self) -> bool:
        """Return whether it is in a source of the planner, rather than a header of the kernels."""
        return self.file.endswith(".cpp")


class DeviceProgram:
    """The program, compiled once with a sanitizer, and once more with bugs of which none or one is switched on.

    Args:
        folder: for cases and results.
        sanitizer: a key of SANITIZERS.
        shared: where processes that test at the same time find what the first of them compiled.
    """

    def __init__(self, folder: Path, sanitizer: str, shared: Path) -> None:
        self.folder, self.sanitizer, self.shared, self.compiler = folder, sanitizer, shared, compiler()
        self.objects: dict[str, Path] = {}
        with FileLock(shared.with_suffix(".lock")):
            self.program = self._build(shared)

    def _build(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        probe = folder / "probe.cpp"
        probe.write_text("int main() { return 0; }\n")
        command = [*self.compiler, *SANITIZERS[self.sanitizer], str(probe), "-o", str(folder / "probe")]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip(f"{self.compiler[0]} has no {self.sanitizer} sanitizer")
        sources = [KERNELS, *(HERE / name for name in FIBERS), CSRC / "common" / "power_iteration_description.cpp"]
        sources += [CSRC / "cuda" / f"power_iteration_{name}.cpp" for name in PLANNER]
        self.objects = {source.name: folder / f"{source.stem}.o" for source in sources}
        program = folder / "program"
        if not program.exists():
            # Of what the planner runs once a case, compiling takes longer under AddressSanitizer than running.
            fibers = [HERE / name for name in FIBERS]
            self._compile([KERNELS], CSRC / "cuda", folder)
            self._compile(fibers, CSRC / "cuda", folder, "-O3")
            self._compile(
                [source for source in sources if source not in {KERNELS, *fibers}], CSRC / "cuda", folder, "-O0"
            )
            self._link(self.objects, program)
        return program

    def _compile(self, sources: list[Path], cuda: Path, folder: Path, level: str = "-O1") -> dict[str, Path]:
        """Compile against the headers in ``cuda``, and give the objects by the sources' names."""
        objects, running = {}, []
        for source in sources:
            flags = SANITIZERS[self.sanitizer]
            # The bookkeeping of the fibers is not what the sanitizers shall see.
            if self.sanitizer == "thread" and source != KERNELS:
                flags = ["-DFIBERS_THREAD_SANITIZER"]
            elif self.sanitizer == "address" and source.name == "fibers.cpp":
                flags = []
            objects[source.name] = folder / f"{source.stem}.o"
            include = ["-I", str(cuda), "-I", str(CSRC / "common"), "-I", str(HERE)]
            command = [
                *self.compiler,
                *FLAGS,
                level,
                *flags,
                *include,
                "-c",
                str(source),
                "-o",
                str(objects[source.name]),
            ]
            running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for process in running:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
        return objects

    def _link(self, objects: dict[str, Path], target: Path) -> Path:
        flags = SANITIZERS[self.sanitizer]
        subprocess.run([*self.compiler, *flags, *map(str, objects.values()), "-o", str(target)], check=True)
        return target

    def with_bugs(self, bugs: Sequence[Bug]) -> Path:
        """Return the program with all of ``bugs``: the variable PLANTED_BUG is the number of the one that is on.

        Compiling takes far longer than a small case. What is compiled anew are the kernels, and the planner's sources
        with bugs.
        """
        folder = self.shared / "planted"
        program = folder / "program"
        with FileLock(self.shared.with_suffix(".lock")):
            if not program.exists():
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(CSRC / "cuda", folder / "cuda")
                for number, bug in enumerate(bugs):
                    plant(folder / "cuda" / bug.file, bug.right, bug.wrong, number)
                switch = folder / "planted_bug.cpp"
                switch.write_text(DEFINITION)
                planner = [folder / "cuda" / file for file in sorted({bug.file for bug in bugs if bug.is_planner()})]
                # Under AddressSanitizer, to optimize the kernels takes longer than it saves.
                level = "-O0" if self.sanitizer == "address" else "-O1"
                kernels = self._compile([KERNELS], folder / "cuda", folder, level)
                changed = self._compile([switch, *planner], folder / "cuda", folder, "-O0")
                self._link({**self.objects, **kernels, **changed}, program)
        return program

    def start(
        self,
        network: Network,
        iterations: int,
        card: Card,
        schedule: int = 0,
        resident: int = 2,
        program: Path | None = None,
        bug: int | None = None,
    ) -> tuple[subprocess.CompletedProcess[str], Path]:
        """Run both launches in an order of blocks and threads (0: ascending, 1: descending, else a seed) on a card.

        The card holds ``resident`` blocks a multiprocessor at once. ``bug`` is the number of a bug in ``program``.
        """
        case, result = self.folder / "case", self.folder / "result"
        case.write_bytes(_case(network, [iterations, *card, schedule, resident]))
        result.unlink(missing_ok=True)
        # A preloaded allocator is more than the sanitizers bear.
        environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        environment["TSAN_OPTIONS"] = "halt_on_error=1"
        if bug is not None:
            environment["PLANTED_BUG"] = str(bug)
        command = [str(program or self.program), str(case), str(result)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment), result

    def run(self, network: Network, iterations: int, card: Card, schedule: int = 0, resident: int = 2) -> Outcome:
        process, result = self.start(network, iterations, card, schedule, resident)
        assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
        return self.read(network, result)

    @staticmethod
    def read(network: Network, result: Path) -> Outcome:
        return _read(network, result.read_bytes())


def _case(network: Network, settings: Sequence[int]) -> bytes:
    def integers(values: Sequence[int]) -> bytes:
        return np.array(values, np.int64).tobytes()

    numbers = network.numbers()
    parts = [integers([len(numbers), *numbers])]
    for weight, v in zip(network.weights, network.v, strict=True):
        strides = list(weight.stride())
        if len(strides) == 4:
            four = strides
        elif len(strides) == 3:
            four = [*strides[:2], 0, strides[2]]
        else:
            four = [*strides, 0, 0]
        in_memory = weight.detach().as_strided((weight.numel(),), (1,))
        parts += [integers(four), in_memory.view(torch.uint8).numpy().tobytes(), v.contiguous().numpy().tobytes()]
    return b"".join([*parts, integers(settings)])


def _read(network: Network, raw: bytes) -> Outcome:
    at = 0

    def take(count: int, dtype: torch.dtype) -> Tensor:
        nonlocal at
        size = count * dtype.itemsize
        taken = torch.frombuffer(bytearray(raw[at : at + size]), dtype=dtype)
        at += size
        return taken

    sigma = take(len(network.weights), torch.float32)
    v, u, gradients = [], [], []
    for weight, start, geometry in zip(network.weights, network.v, network.geometries, strict=True):
        shape = geometry.apply(torch.zeros_like(weight, dtype=torch.float32), start).shape
        v.append(take(start.numel(), torch.float32).reshape(start.shape))
        u.append(take(shape.numel(), torch.float32).reshape(shape))
        gradients.append(take(weight.numel(), weight.dtype).as_strided(weight.shape, weight.stride()))
    assert at == len(raw)
    return Outcome(sigma, v, u, gradients, raw)
