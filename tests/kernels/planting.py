"""Bugs planted in a copy of a module of kernels, for tests that their checks catch them."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

import gloro_fast.kernels


def planted(module: str, old: str, new: str) -> ModuleType:
    """Load ``gloro_fast.kernels.<module>`` once more, with ``old``, which must be there, replaced."""
    assert gloro_fast.kernels.__file__ is not None
    source = (Path(gloro_fast.kernels.__file__).parent / f"{module}.py").read_text()
    assert old in source, f"{module}.py has changed; plant the bug where {old!r} went"
    path = Path(tempfile.mkdtemp(prefix="gloro-planted-")) / f"{module}.py"  # Triton reads the source from the file
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(f"gloro_fast.kernels.planted_{module}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
