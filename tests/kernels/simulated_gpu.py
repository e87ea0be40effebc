"""A driver for Triton without a GPU: it compiles for any architecture and runs PTX in a simulator, on CPU tensors.

Kernels are launched as ever, ``kernel[grid](...)``; specialisation, compilation and arguments are the real ones.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import planting
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
import triton
from triton.backends.compiler import GPUTarget

SIMULATOR = os.environ.get("GLORO_FAST_PTX_SIM")
needs_simulator = pytest.mark.skipif(
    not SIMULATOR, reason="needs a PTX simulator: set GLORO_FAST_PTX_SIM to a folder with ptx_sim.py"
)
SM_86 = 86
_FIRST_LENT = 200  # a number beyond those of arguments, and of the bits 40 and above of addresses
_planted: list[Any] = []  # kept: where a compiled kernel goes, Triton asks the driver, and there is none by then


@functools.cache
def _simulator() -> Any:
    """The simulator, its race detector told to look at elements: it looks at words of 4 bytes, which two may share."""
    assert SIMULATOR is not None
    spec = importlib.util.spec_from_file_location("ptx_sim", Path(SIMULATOR) / "ptx_sim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Simulator(module.Sim):  # type: ignore[misc]
        def __init__(self, ptx: str, itemsizes: list[int], origins: dict[int, int], lent: list[Tensor]) -> None:
            self.itemsizes = itemsizes
            self.origins = origins
            self.lent = [(tensor.data_ptr(), _memory(tensor).view(np.uint8)) for tensor in lent]
            super().__init__(ptx)

        def region(self, i: Any, space: str, addr: Any, size: int, a: Any) -> Any:
            if space == "generic":  # which is what it calls global memory too
                for key, origin in self.origins.items():
                    addr = np.where(addr >> 40 == key, addr - origin, addr)
                for number, (begin, memory) in enumerate(self.lent, _FIRST_LENT):
                    self.bufs[number] = memory
                    inside = (addr >= begin) & (addr < begin + memory.nbytes)
                    addr = np.where(inside, (number << 40) + addr - begin, addr)
            return super().region(i, space, addr, size, a)

        def note(self, i: Any, a: Any, key: Any, off: Any, size: int, *rest: Any) -> None:
            if key is None or (key != "shared" and key >= _FIRST_LENT):  # nobody writes there
                return
            cells = 4 // (1 if key == "shared" else min(self.itemsizes[key - 1], 4))  # in a word
            if key not in self.shadow:
                count = len(self.smem if key == "shared" else self.bufs[key]) * cells // 4 + 4
                self.shadow[key] = [[np.full(count, -1, np.int64) for _ in range(3)] for _ in range(2)]
            super().note(i, a, key, off * cells, size * cells, *rest)

        def compile(self, i: Any) -> Any:
            if i.op[-1] not in ("bf16x2", "f16x2") or i.op[0] not in ("add", "fma", "abs"):
                return super().compile(i)
            inputs = [self.get(argument, "b32") for argument in i.args[1:]]
            output = self.put(i.args[0], "b32")
            if i.op[0] == "abs":
                return lambda a: output(a, inputs[0](a) & np.uint32(0x7FFF7FFF))
            dtype = torch.bfloat16 if i.op[-1] == "bf16x2" else torch.float16

            def packed(a: Any) -> None:
                x, y, *z = (_halves(get(a), dtype) for get in inputs)
                total = x * y + z[0] if z else x + y
                output(a, total.to(dtype).view(torch.int32).flatten().numpy().view(np.uint32))

            return packed

    return Simulator


def _halves(words: Any, dtype: torch.dtype) -> Tensor:
    """The two numbers in each word."""
    return torch.from_numpy(np.array(words, np.uint32).view(np.int32)).unsqueeze(1).view(dtype).double()


class Launch:
    """What one launch was and did."""

    def __init__(self, kernel: Any, grid: tuple[int, ...], traffic: dict[str, int]) -> None:
        self.kernel = kernel
        self.grid = grid
        self.traffic = traffic

    @property
    def bytes_requested(self) -> int:
        """Bytes in the 32-byte sectors that its requests ask for, were nothing cached."""
        return 32 * (self.traffic["load_sectors"] + self.traffic["store_sectors"] + self.traffic["atomic_sectors"])


class SimulatedGpu:
    """Stands where Triton keeps its active driver.

    Args:
        arch: compute capability, such as 86.
        run: whether launches run; else they only compile.
        edit: applied to the PTX before it runs.
    """

    def __init__(self, arch: int, run: bool = True, edit: Any = None) -> None:
        self.arch = arch
        self.run = run
        self.edit = edit
        self.launches: list[Launch] = []
        self.origins: dict[Any, int] = {}  # byte of a huge array at which a tensor stands for it
        self.lent: list[Tensor] = []  # what kernels read at addresses that they find in a table
        self.utils = SimpleNamespace(
            load_binary=lambda name, kernel, shared, device: (object(), None, 0, 0, 1024),
            unload_module=lambda module: None,
            get_device_properties=lambda device: {"max_shared_mem": 100 * 1024},
        )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # Triton caches by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        names = list(src.signature)
        dynamic = [name for name in names if src.signature[name] != "constexpr"]

        def launch(x: int, y: int, z: int, stream: int, function: Any, packed: Any, *rest: Any) -> None:
            active = triton.runtime.driver.active
            arguments = dict(zip(names, rest[-len(names) :], strict=True))
            active.simulate(src, metadata, (x, y, z), [arguments[name] for name in dynamic])

        return launch

    def simulate(self, src: Any, metadata: Any, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        kernel = next(k for k in src.fn.device_caches[self.arch][0].values() if k.src is src)
        self.launches.append(Launch(kernel, grid, self.execute(kernel, grid, arguments) if self.run else {}))

    def execute(self, kernel: Any, grid: tuple[int, ...], arguments: list[Any]) -> dict[str, int]:
        """Run what was compiled; gives its traffic."""
        ptx, metadata = kernel.asm["ptx"], kernel.metadata
        values = [_memory(a) if isinstance(a, Tensor) else a for a in arguments]
        itemsizes = [a.itemsize if isinstance(a, np.ndarray) else 0 for a in values]
        origins = {n + 1: self.origins[a] for n, a in enumerate(arguments) if a is not None and a in self.origins}
        simulation = _simulator()(self.edit(ptx) if self.edit else ptx, itemsizes, origins, self.lent)
        simulation.launch(values, grid, (32 * metadata.num_warps,), metadata.shared)
        traffic: dict[str, int] = simulation.traffic
        return traffic


def _memory(tensor: Tensor) -> np.ndarray:
    """The memory that a tensor spans, in its order, as words."""
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}[tensor.itemsize]
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.detach().as_strided((span if tensor.numel() else 0,), (1,), tensor.storage_offset())
    return flat.view(words).numpy() if tensor.numel() else np.zeros(1, np.uint8)


@contextlib.contextmanager
def gpu(arch: int = SM_86, run: bool = True, edit: Any = None) -> Iterator[SimulatedGpu]:
    """Make a simulated GPU the active one."""
    driver = triton.runtime.driver
    before = driver._active
    simulated = SimulatedGpu(arch, run, edit)
    driver.set_active(simulated)
    try:
        yield simulated
    finally:
        driver._active = before


def call(module: str, function: str, *arguments: Any, planted: tuple[str, str, str] | None = None) -> Any:
    """Call ``gloro_fast.kernels.<module>.<function>``; ``planted``: file, old, new of ``planting.planted``."""
    kernels = planting.planted(module, *planted) if planted else importlib.import_module(f"gloro_fast.kernels.{module}")
    if planted:
        _planted.append(kernels)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills what is empty, so that nothing left unwritten is right by chance
    try:
        with gpu() as simulated:
            simulated.lent = [tensor for value in arguments if isinstance(value, list) for tensor in value]
            return getattr(kernels, function)(*arguments)
    finally:
        torch.use_deterministic_algorithms(before)


def far_out(program: int) -> Any:
    """An edit after which the only program of a launch takes itself for the last of very many."""
    return lambda ptx: ptx.replace("%ctaid.x", str(program)).replace("%nctaid.x", str(program + 1))
