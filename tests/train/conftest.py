import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run

import gloro_fast
from gloro_fast.train.observers import curves


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Pictures would take most of the time; test_curves has its own."""
    monkeypatch.setattr(curves, "draw", lambda rows, path: path.write_bytes(b""))


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The folder of a run of everything that was never interrupted."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    tiny_run.Trainer(tiny_run.tiny_recipe(**tiny_run.EVERYTHING), tiny_run.tiny_data(), out).fit()
    return out


@pytest.fixture
def run_script():
    """Run tiny_run.py as a process of its own."""

    def run(*arguments):
        package = str(Path(gloro_fast.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": package}
        command = [sys.executable, tiny_run.__file__, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run
