"""The results of an earlier run stand until a new one has its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as program


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "_HERE", tmp_path)
    monkeypatch.setattr(program, "report", lambda output, command: "")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "latest.json").write_text("earlier")
    return folder


def file_of(arguments: list[str]) -> Path:
    (option,) = (argument for argument in arguments if argument.startswith("--benchmark-json="))
    return Path(option.partition("=")[2])


def test_a_killed_run_loses_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(arguments: list[str]) -> int:
        file_of(arguments).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pytest, "main", killed)
    with pytest.raises(KeyboardInterrupt):
        program.main(["--name", "latest"])
    assert (results / "latest.json").read_text() == "earlier"


def test_a_run_that_measured_nothing_leaves_the_earlier_one(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest, "main", lambda arguments: file_of(arguments).touch() or 5)
    assert program.main(["--name", "latest"]) == 5
    assert (results / "latest.json").read_text() == "earlier"


def test_a_finished_run_takes_the_place(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest, "main", lambda arguments: file_of(arguments).write_text("new") and 0)
    assert program.main(["--name", "latest"]) == 0
    assert [path.name for path in results.iterdir()] == ["latest.json"]
    assert (results / "latest.json").read_text() == "new"
