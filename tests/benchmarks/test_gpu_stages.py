"""A visit to a GPU machine: limits, what a broken stage leaves of the others, and what is brought; without a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import bring, stages
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.stages import STAGES, USUAL, Stage, Visit


def script(text: str, seconds: float = 3.0) -> Stage:
    return Stage("a script", seconds, lambda visit: [sys.executable, "-c", text])


SCRIPTS = {
    "right": script("print('all is well')"),
    "wrong": script("raise SystemExit(3)"),
    "endless": script(
        "import time\ntry:\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('what failed until now')\n raise",
        2.0,
    ),
    "deaf": script("import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)", 2.0),
    "absent": Stage("a tool", 3.0, lambda visit: ["no-such-tool"]),
}


@pytest.fixture
def visited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(program, "STAGES", SCRIPTS)
    monkeypatch.setattr(stages, "_GRACE", 0.5)

    def visit(*names: str) -> tuple[int, dict[str, Any]]:
        code = program.main([*names, "--out", str(tmp_path)])
        return code, json.loads((tmp_path / "summary.json").read_text())

    return visit


def test_a_broken_stage_leaves_the_others_alone(visited: Any, tmp_path: Path, capsys: Any) -> None:
    code, summary = visited("wrong", "absent", "right")
    assert code == 1
    assert [outcome["status"] for outcome in summary.values()] == [3, "no-such-tool is not on this machine", 0]
    assert (tmp_path / "right.txt").read_text() == "all is well\n"
    assert "   all is well" in capsys.readouterr().out


def test_where_all_ends_well_so_does_the_visit(visited: Any) -> None:
    assert visited("right") == (0, {"right": {"status": 0, "seconds": pytest.approx(0, abs=3.0)}})


@pytest.mark.parametrize("name", ["endless", "deaf"])
def test_a_stage_ends_at_its_limit_and_may_say_its_last(
    visited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = time.monotonic()
    code, summary = visited(name)
    assert code == 1
    assert summary[name]["status"] == stages.STOPPED
    assert time.monotonic() - start < 20
    assert ("what failed until now" in (tmp_path / f"{name}.txt").read_text()) == (name == "endless")


def test_a_visit_that_is_stopped_leaves_no_stage_running(
    visited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    stage = script(f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)", 50.0)
    monkeypatch.setattr(program, "STAGES", {"long": stage})

    def stop() -> None:
        while not (started.exists() and started.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with pytest.raises(SystemExit, match="143"):
            visited("long")
    finally:
        signal.signal(signal.SIGTERM, before)
        stopper.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_an_unknown_stage_is_named(visited: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        visited("right", "rigth")
    assert "there is no stage 'rigth'; choose from right," in capsys.readouterr().err


def test_commands_name_modules_and_tests_that_there_are(tmp_path: Path) -> None:
    assert set(USUAL) <= set(STAGES)
    root = Path(stages.__file__).resolve().parents[2]
    for fast in (False, True):
        for stage in STAGES.values():
            command = stage.command(Visit("cuda", fast, tmp_path, tmp_path))
            modules = [word for word in command if word.startswith("benchmarks.gpu.")]
            files = [word for word in command if word.startswith("tests")]
            assert all((root / f"{module.replace('.', '/')}.py").exists() for module in modules)
            assert all((root / file).exists() for file in files)


def test_a_row_that_fails_is_noted_and_the_next_is_measured(capsys: Any) -> None:
    rows, calls = Rows(torch.device("cpu"), fast=True), []

    def broken() -> None:
        raise RuntimeError("out of memory\nand more")

    assert rows.row("broken", lambda: broken) is None
    assert rows.failed
    milliseconds = rows.row("works", lambda: lambda: calls.append(None))
    assert milliseconds is not None
    rows.ratio("works / broken", milliseconds, None)
    out = capsys.readouterr().out
    assert "FAILED: RuntimeError: out of memory\n" in out
    assert "works / broken" not in out
    assert len(calls) == 2


def test_wheels_are_those_of_the_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "images").write_text("pixels")
    arguments = ["--data", str(tmp_path / "mnist"), "--python", "3.13", "--lacking", "tomli-w"]
    bring.main([str(tmp_path / "brought"), *arguments])
    (command,) = commands
    assert command[-1] == "tomli-w"
    assert command[command.index("--python-version") + 1] == "3.13"
    assert (tmp_path / "brought" / "data" / "images").read_text() == "pixels"


def test_what_was_brought_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").touch()
    assert program._installed(tmp_path, tmp_path / "out") == f"{tmp_path / 'out' / 'site'}:before"
    assert commands[0][-1] == str(tmp_path / "wheels" / "a.whl")
    assert "--no-index" in commands[0]


def test_archives_that_were_brought_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.png").write_text("pixels")
    with tarfile.open(tmp_path / "cifar10-small.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "train", "train")
    bring.main([str(tmp_path / "brought"), "--lacking", "--data", str(tmp_path / "cifar10-small.tar.gz")])
    data = program._unpacked(tmp_path / "brought" / "data")
    image = data / "cifar10-small" / "train" / "cat" / "1.png"
    assert image.read_text() == "pixels"
    image.write_text("mine")
    program._unpacked(data)
    assert image.read_text() == "mine"


def test_a_wheel_that_was_brought_is_found_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(name: str, stage: Stage, visit: Visit, environment: Any) -> dict[str, object]:
        seen.update(command=stage.command(visit), environment=environment)
        return {"status": 0, "seconds": 0.0}

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(program, "_installed", lambda brought, out: "site")
    assert program.main(["build", "--out", str(tmp_path / "out"), "--brought", str(tmp_path)]) == 0
    assert "install" in seen["command"]
    assert "PYTHONSAFEPATH" not in seen["environment"]
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "gloro_fast-1.0-cp312-cp312-linux_x86_64.whl").touch()
    assert program.main(["build", "--out", str(tmp_path / "out"), "--brought", str(tmp_path)]) == 0
    assert "install" not in seen["command"]
    assert seen["environment"]["PYTHONPATH"] == f"site{os.pathsep}{Path.cwd()}"
    assert seen["environment"]["PYTHONSAFEPATH"] == "1"


def test_the_script_refuses_before_anything_begins(tmp_path: Path) -> None:
    script = Path(stages.__file__).parents[1] / "reproduce_on_gpu.sh"
    (tmp_path / "data").mkdir()
    for arguments, interpreter, says in (
        ([tmp_path / "none"], "true", "there is no folder data in"),
        ([tmp_path], "false", "false has no torch"),
        ([tmp_path, "--device", "cuda"], "true", "nvidia-smi finds no GPU"),
    ):
        environment = {"PATH": os.defpath, "PYTHON": interpreter}
        done = subprocess.run(
            ["bash", str(script), *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
        )
        if "nvidia" in says and done.returncode == 0:
            continue  # There is one.
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert says in done.stderr
