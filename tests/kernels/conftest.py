from __future__ import annotations

from collections.abc import Iterator

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
