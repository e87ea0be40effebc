from __future__ import annotations

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


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    """The CUDA kernels of power iteration as a program of fibers."""
    return DeviceProgram(tmp_path_factory.mktemp("device"), "none")


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    """The same under AddressSanitizer and UndefinedBehaviorSanitizer."""
    return DeviceProgram(tmp_path_factory.mktemp("device-address"), "address")


@pytest.fixture(scope="session")
def threads(tmp_path_factory: pytest.TempPathFactory) -> DeviceProgram:
    """The same under ThreadSanitizer."""
    return DeviceProgram(tmp_path_factory.mktemp("device-thread"), "thread")
