"""Bugs planted in a copy of a module of kernels, for tests that their checks catch them."""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import gloro_fast.kernels


def planted(module: str, file: str, old: str, new: str) -> ModuleType:
    """Load ``gloro_fast.kernels.<module>`` once more, with ``old``, which must be there, replaced in ``file``.

    ``file`` is the module itself or one that it imports from.
    """
    source = _source(file)
    assert old in source, f"{file}.py has changed; plant the bug where {old!r} went"
    loaded = _load(file, source.replace(old, new))
    if file == module:
        return loaded
    return _load(module, _source(module).replace(f"from .{file} import", f"from .planted_{file} import"))


def _source(module: str) -> str:
    assert gloro_fast.kernels.__file__ is not None
    return (Path(gloro_fast.kernels.__file__).parent / f"{module}.py").read_text()


def _load(module: str, source: str) -> ModuleType:
    # Triton reads the source from the file, its interpreter not before a kernel is launched.
    folder = Path(tempfile.mkdtemp(prefix="gloro-planted-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / f"{module}.py"
    path.write_text(source)
    name = f"gloro_fast.kernels.planted_{module}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded
