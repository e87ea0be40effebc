from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from gloro_fast.cli import app
from gloro_fast.train.observers import curves

Invoke = Callable[..., Result]
_DRAW = curves.draw


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of training would take most of the time; the run that the tests share has real ones."""
    monkeypatch.setattr(curves, "draw", lambda rows, path: path.write_bytes(b""))


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --device commands take the GPU where there is one, which rounds otherwise and refuses `executed`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def invoke() -> Invoke:
    """Run the command line in this process, with the arguments as strings."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def refused(invoke: Invoke) -> Callable[..., str]:
    """Run a command that must fail as the package fails, and give its one line."""

    def run(*arguments: object, announced: tuple[str, ...] = ()) -> str:
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        *before, last = result.stderr.splitlines()
        assert last.startswith("error: ")
        # A training that has begun has said so.
        assert [line for line in before if not line.startswith(("warning: ", *announced))] == []
        return last

    return run


@pytest.fixture(scope="session")
def _digits() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture(scope="session")
def trained(_digits: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the digits recipe after two epochs; do not write to it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["train", "--recipe", "digits", "--epochs", "2", "--threads", "1", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", _DRAW)
        result = CliRunner().invoke(app, [*arguments, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run folder, to write to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
