"""Images that the processes of a group certify, smooth and attack together."""

import importlib.util
import json
from pathlib import Path

import processes
import pytest

from gloro_fast.cli import app

pytest.importorskip("scipy", reason="randomized smoothing needs SciPy")


def test_three_processes_find_what_one_finds_and_leave_no_thread_of_the_group():
    art = ["art"] if importlib.util.find_spec("art") else []
    script = str(Path(__file__).with_name("certifying_together.py"))
    ends = processes.wait(processes.start(3, [script, *art]))
    assert [code for code, _, _ in ends] == [0, 0, 0], [err for _, _, err in ends]
    for _, out, _ in ends:
        assert json.loads(out.splitlines()[-1]) == [True] * (7 if art else 4)


def test_the_file_of_two_processes_is_that_of_one(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    run, one, two = (tmp_path / name for name in ("run", "one.json", "two.json"))
    train = ["train", "--recipe", "digits", "--epochs", "1", "--out", str(run), "--threads", "1"]
    app(train, standalone_mode=False)
    common = ["certify", str(run), "--batch-size", "100", "--threads", "1", "--out"]
    app([*common, str(tmp_path / "one.csv"), "--certificate", str(one)], standalone_mode=False)
    ends = processes.wait(
        processes.start(2, ["-m", "gloro_fast", *common, str(tmp_path / "two.csv"), "--certificate", str(two)])
    )
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert ends[1][1] == ends[1][2] == ""
    assert two.read_bytes() == one.read_bytes()
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_what_all_would_refuse_is_said_once(tmp_path):
    ends = processes.wait(processes.start(2, ["-m", "gloro_fast", "certify", str(tmp_path / "no run")]))
    assert [code for code, _, _ in ends] == [2, 2]
    assert len((ends[0][2] + ends[1][2]).strip().splitlines()) == 1, ends
