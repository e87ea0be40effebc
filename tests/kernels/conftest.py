from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def interpreter() -> Iterator[object]:
    """One process with Triton's interpreter for all tests."""
    pytest.importorskip("triton")
    from interpreter import Interpreter

    started = Interpreter()
    yield started
    started.close()
