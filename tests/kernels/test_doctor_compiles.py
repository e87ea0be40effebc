"""What the doctor launches on a GPU is compiled beforehand, several kernels at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
import triton
from gloro_fast.kernels import margin_rows
from simulated_gpu import SimulatedGpu, gpu
from triton.runtime.jit import JITFunction

from gloro_fast.doctor import compiling
from gloro_fast.doctor.margin_check import check_margin
from gloro_fast.native import extension

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


@contextmanager
def fresh_gpu(arch: int, cache: Path) -> Iterator[SimulatedGpu]:
    """A GPU of an architecture that no other test compiles for."""
    with triton.knobs.cache.scope(), gpu(arch, run=False) as simulated:
        triton.knobs.cache.dir = str(cache)
        yield simulated


def launched_by_check() -> None:
    """Launches what the check launches on a GPU."""
    with compiling._BothDevices():
        assert [wrong for wrong in check_margin(torch.device("cpu")) if wrong is not None] == []


def test_the_examination_finds_all_kernels_compiled(tmp_path: Path) -> None:
    compiled: list[str] = []
    with fresh_gpu(87, tmp_path) as simulated, triton.knobs.runtime.scope():
        triton.knobs.runtime.jit_post_compile_hook = lambda **what: compiled.append(what["fn"].name)
        compiling.compile_kernels([check_margin])
        beforehand = len(compiled)
        assert beforehand > 1
        assert simulated.launches == []
        launched_by_check()
        assert len(compiled) == beforehand
        assert len(simulated.launches) >= beforehand


def test_two_compile_at_a_time(tmp_path: Path) -> None:
    pair, arrivals = threading.Barrier(2), itertools.count()

    def listener(**compiled: object) -> None:
        if next(arrivals) < 2:
            pair.wait(timeout=60)

    with fresh_gpu(103, tmp_path), triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = listener
        compiling.compile_kernels([check_margin])
    assert next(arrivals) > 2
    assert not pair.broken


def test_launches_are_launches_again_after_a_failure() -> None:
    before = JITFunction.run

    def broken(device: torch.device) -> Iterator[str | None]:
        raise RuntimeError("the check is broken")
        yield

    with pytest.raises(RuntimeError, match="the check is broken"):
        compiling.compile_kernels([broken])
    assert JITFunction.run is before


def test_who_else_parses_does_not_fail_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 counts depths for all threads together."""
    parse, calls = JITFunction.parse, itertools.count()

    def disturbed(self: JITFunction) -> object:
        if next(calls) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=33, after=257)")
        return parse(self)

    monkeypatch.setattr(JITFunction, "parse", disturbed)
    kernel = next(value for value in vars(margin_rows).values() if isinstance(value, JITFunction))
    with compiling._launches_compile():
        assert kernel.parse() is not None
    assert next(calls) == 4


def test_threads_parse_one_at_a_time_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, busy, overlaps = JITFunction.parse, threading.Lock(), []

    def watched(self: JITFunction) -> object:
        alone = busy.acquire(blocking=False)
        overlaps.append(not alone)
        try:
            time.sleep(0.002)
            return parse(self)
        finally:
            if alone:
                busy.release()

    monkeypatch.setattr(JITFunction, "parse", watched)
    with fresh_gpu(121, tmp_path):
        compiling.compile_kernels([check_margin])
    assert overlaps
    assert not any(overlaps)
