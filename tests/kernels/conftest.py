from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from device_program import DeviceProgram


@pytest.fixture(scope="session")
def interpreter() -> Iterator[object]:
    """One process with Triton's interpreter for all tests."""
    pytest.importorskip("triton")
    from interpreter import Interpreter

    started = Interpreter()
    yield started
    started.close()


@pytest.fixture(params=["interpreted", "simulated"])
def call(request: pytest.FixtureRequest) -> Any:
    """Calls ``gloro_fast.kernels.<module>.<function>`` with arguments, in Triton's interpreter and as simulated PTX."""
    pytest.importorskip("triton")
    if request.param == "interpreted":
        return request.getfixturevalue("interpreter").call
    import simulated_gpu

    if not simulated_gpu.SIMULATOR:
        pytest.skip("needs a PTX simulator: set GLORO_FAST_PTX_SIM to a folder with ptx_sim.py")
    return simulated_gpu.call


def device_program(factory: pytest.TempPathFactory, sanitizer: str) -> DeviceProgram:
    # Each worker of pytest-xdist has a folder in one that they share.
    base = factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return DeviceProgram(factory.mktemp("device"), sanitizer, session / f"device-{sanitizer}")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    """The CUDA kernels of power iteration as a program of fibers."""
    return device_program(tmp_path_factory, "none")


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    """The same under AddressSanitizer and UndefinedBehaviorSanitizer."""
    return device_program(tmp_path_factory, "address")


@pytest.fixture(scope="session")
def threads(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    """The same under ThreadSanitizer."""
    return device_program(tmp_path_factory, "thread")
