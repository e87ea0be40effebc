"""What the doctor launches on a GPU is compiled beforehand, several kernels at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
import triton
from gloro_fast.kernels.margin import margin_rows
from simulated_gpu import SimulatedGpu, gpu
from triton.runtime.jit import JITFunction

from gloro_fast import _extension
from gloro_fast.doctor import compiling
from gloro_fast.doctor.margin import check_margin

pytestmark = pytest.mark.skipif(not _extension.available(), reason=f"compiled ops: {_extension.why_not()}")
KERNELS = 6  # of the check of margin


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[SimulatedGpu]:
    """A GPU that no other test compiles for."""
    with triton.knobs.cache.scope(), gpu(87, run=False) as simulated:
        triton.knobs.cache.dir = str(tmp_path)
        yield simulated
        simulated.launches.clear()
        margin_rows.device_caches.pop(87, None)  # while there is a driver to unload from


def launched_by_check() -> None:
    """Launches what the check launches on a GPU."""
    with compiling._BothDevices():
        assert [wrong for wrong in check_margin(torch.device("cpu")) if wrong is not None] == []


def test_the_examination_finds_all_kernels_compiled(fresh: SimulatedGpu) -> None:
    compiled: list[str] = []

    with triton.knobs.runtime.scope():
        triton.knobs.runtime.jit_post_compile_hook = lambda **what: compiled.append(what["fn"].name)
        compiling.compile_kernels([check_margin])
        assert len(compiled) == KERNELS
        assert fresh.launches == []
        launched_by_check()
    assert len(compiled) == KERNELS
    assert len(fresh.launches) >= KERNELS


def test_two_compile_at_a_time(fresh: SimulatedGpu) -> None:
    pair = threading.Barrier(2)
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda **what: pair.wait(timeout=60)
        compiling.compile_kernels([check_margin])
    kernels = margin_rows.device_caches[87][0].values()
    assert [type(kernel).__name__ for kernel in kernels] == ["CompiledKernel"] * KERNELS


def test_launches_are_launches_again_after_a_failure() -> None:
    before = JITFunction.run

    def broken(device: torch.device) -> Iterator[str | None]:
        raise RuntimeError("the check is broken")
        yield

    with pytest.raises(RuntimeError, match="the check is broken"):
        compiling.compile_kernels([broken])
    assert JITFunction.run is before
