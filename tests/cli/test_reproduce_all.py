from __future__ import annotations

import json
import os
import signal

import pytest

from gloro_fast.cli import reproduced_all
from gloro_fast.cli.reproduced import Reproduction
from gloro_fast.data import digits
from gloro_fast.errors import SoundnessError
from gloro_fast.files import atomic
from gloro_fast.reproduce import pace, rows
from gloro_fast.reproduce.ledger import Ledger
from gloro_fast.reproduce.rows import Row

DIGITS = Row("digits", "digits", 10)
LMT = Row("digits-lmt", "digits-lmt", 3)
SMOOTHING = Row("digits-smoothing-0.5", "digits-smoothing", 4, {"epsilon": 0.5})
STANDARD = Row("digits-standard", "digits-standard", 3)


@pytest.fixture(scope="module")
def loaded():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return digits.load()


@pytest.fixture
def listed(monkeypatch, loaded):
    """Run these rows, an epoch of which is said to take ten seconds, by a clock that stands still."""

    def choose(*chosen):
        monkeypatch.setattr(rows, "EVERY_ROW", chosen)

    monkeypatch.setattr(digits, "load", lambda: loaded)
    monkeypatch.setattr(pace, "seconds_per_epoch", lambda *arguments: 10.0)
    monkeypatch.setattr(Ledger, "used", property(lambda ledger: ledger._before))
    choose(DIGITS, LMT, STANDARD)
    return choose


@pytest.fixture
def pretended(monkeypatch):
    """Put a report down in place of each row's work; give what was asked for, and what to do before it by label."""
    asked, instead = [], {}

    def run(work):
        asked.append(work)
        if work.label in instead:
            instead[work.label]()
        folder = work.reports / work.label
        folder.mkdir(parents=True, exist_ok=True)
        recipe = {"epochs": work.request.fields.get("epochs", 100), "warmup_epochs": 0, "epsilon": 0.3}
        report = {
            "recipe": {**recipe, "architecture": "2C2F"},
            "recipe_epochs": 100,
            "data": "digits",
            "data_note": "",
            "seconds_per_epoch": 0.5,
            "vra": {"clean_accuracy": 0.9, "vra": 0.5, "method": "auto", "images": 500},
        }
        atomic.write_text(folder / "report.json", json.dumps(report))

    monkeypatch.setattr(Reproduction, "run", run)
    monkeypatch.setattr(reproduced_all, "commit", lambda: "0123")
    # Nothing is left of rows that did nothing, and to look for it takes a second.
    monkeypatch.setattr(reproduced_all.gc, "collect", lambda: 0)
    return asked, instead


def fail(error):
    def raising():
        raise error

    return raising


@pytest.fixture
def everything(invoke, tmp_path):
    places = ("--device", "cpu", "--out", tmp_path / "reports", "--runs", tmp_path / "runs")
    return lambda *options: invoke("reproduce", "--all", *places, *options)


def report(tmp_path):
    content = json.loads((tmp_path / "reports" / "all" / "report.json").read_text())
    return content, (tmp_path / "reports" / "all" / "README.md").read_text()


def test_rows_by_the_way_from_training_to_the_report(everything, listed, tmp_path):
    for name in ("art", "scipy"):
        pytest.importorskip(name, reason=f"reproducing needs {name}")
    listed(DIGITS, Row("mnist-2c2f", "mnist-2c2f", 3), SMOOTHING)
    result = everything("--minutes", 1.3, "--quick", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "mnist: not found, its rows are left out (mnist needs --data-dir" in result.stderr
    content, text = report(tmp_path)
    assert content["command"] == "gloro-fast reproduce --all --minutes 1.3 --quick"
    assert "mnist needs --data-dir" in content["missing"]["mnist"]
    digits, sampled = content["rows"]
    # 78 seconds: 10 parts of 14 are for the first row, six tenths of them for training.
    assert digits["epochs"] == "3 of 100"
    assert 0 < digits["vra"] <= digits["vra_by_power"] <= digits["clean_accuracy"]
    assert (digits["method"], digits["broken"]) == ("auto", 0)
    assert (sampled["epsilon"], sampled["epochs"]) == (0.5, "1 of 100")
    assert sampled["paper"] is None
    for row in (digits, sampled):
        assert f"[{row['name']}](../{row['name']}/README.md)" in text
        assert f"{100 * row['vra']:.2f}" in text
        own = json.loads((tmp_path / "reports" / row["name"] / "report.json").read_text())
        assert own["command"] == content["command"]
    assert "| digits | " in text
    assert "Table C.1, Cayley" in text
    assert result.stdout.count("clean %") == 1


def test_all_epochs_where_no_minutes_are_given(everything, listed, pretended, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "seconds_per_epoch", fail(AssertionError("nothing is to be timed")))
    assert everything().exit_code == 0
    asked, _ = pretended
    assert [(work.label, dict(work.request.fields), work.until) for work in asked] == [
        ("digits", {}, None), ("digits-lmt", {}, None), ("digits-standard", {}, None)
    ]  # fmt: skip
    content, text = report(tmp_path)
    assert [row["epochs"] for row in content["rows"]] == ["100"] * 3
    assert asked[0].runs == tmp_path / "runs" / "all"
    assert "All epochs of the recipes" in text


def test_a_row_without_time_for_an_epoch_is_left_out_and_named(everything, listed, pretended, tmp_path):
    # As the clock stands still, the second has half of 30 seconds, six tenths of it to train, the third all of them.
    result = everything("--minutes", 0.5)
    assert result.exit_code == 0
    assert "digits-lmt is left out" in result.stderr
    content, text = report(tmp_path)
    assert [row["name"] for row in content["rows"]] == ["digits", "digits-standard"]
    assert "- digits-lmt: an epoch takes 10 s, and its share was 15 s" in text
    result = everything("--minutes", 0.1, "--overwrite")
    assert result.exit_code == 2
    assert "no row fits into 0.1 minutes; give more with --minutes (digits: an epoch takes 10 s" in result.stderr


def test_a_row_that_fails_is_named_and_the_others_go_on(everything, listed, pretended, tmp_path):
    asked, instead = pretended
    instead["digits"] = fail(RuntimeError("CUDA out of memory.\n Tried to allocate 2 GiB"))
    result = everything("--minutes", 10)
    assert result.exit_code == 1
    assert "digits failed, the others go on: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB" in result.stderr
    content, text = report(tmp_path)
    assert [row["name"] for row in content["rows"]] == ["digits-lmt", "digits-standard"]
    assert "- digits: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB" in text
    # Tried again where it stood, and the others are not.
    instead.clear()
    asked.clear()
    assert everything("--minutes", 10, "--resume").exit_code == 0
    assert [(work.label, work.resume) for work in asked] == [("digits", True)]
    assert [row["name"] for row in report(tmp_path)[0]["rows"]] == ["digits", "digits-lmt", "digits-standard"]


def test_a_row_that_fails_before_it_begins_is_begun_by_resume(everything, listed, pretended, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "seconds_per_epoch", fail(RuntimeError("no memory")))
    assert everything("--minutes", 10).exit_code == 1
    monkeypatch.setattr(pace, "seconds_per_epoch", lambda *arguments: 10.0)
    assert everything("--minutes", 10, "--resume").exit_code == 0
    assert {work.label: work.request.fields["epochs"] for work in pretended[0]}["digits"] == 22


def test_stopped_by_a_signal_it_goes_on_where_it_was(everything, listed, pretended, tmp_path):
    asked, instead = pretended
    instead["digits-lmt"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    result = everything("--minutes", 10)
    assert result.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert "SIGTERM received: the run is saved in" in result.stderr
    ledger = tmp_path / "runs" / "all" / "ledger.json"
    kept = json.loads(ledger.read_text())
    assert {label: row["done"] for label, row in kept["rows"].items()} == {"digits": True, "digits-lmt": False}
    # Minutes that were used count, those of the row for itself too.
    kept["used"], kept["rows"]["digits-lmt"]["used"] = 240.0, 50.0
    ledger.write_text(json.dumps(kept))
    epochs, share = kept["rows"]["digits-lmt"]["fields"]["epochs"], kept["rows"]["digits-lmt"]["share"]
    instead.clear()
    asked.clear()
    result = everything("--minutes", 10, "--resume")
    assert result.exit_code == 0, result.output
    assert [(work.label, work.resume) for work in asked] == [("digits-lmt", True), ("digits-standard", False)]
    assert asked[0].request.fields["epochs"] == epochs
    assert f"digits-lmt: {epochs} of 100 epochs, {share - 50:.0f} s for it" in result.stderr
    # All of the 360 seconds that are left, six tenths of them.
    assert asked[1].request.fields["epochs"] == 21


def test_a_broken_certificate_is_an_error_of_the_whole(everything, listed, pretended, tmp_path):
    asked, instead = pretended
    instead["digits-lmt"] = fail(SoundnessError("certified predictions were changed at epsilon 0.3: 1 by PGD, of 400"))
    result = everything("--minutes", 10)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: certified predictions were changed")
    assert [work.label for work in asked] == ["digits", "digits-lmt"]
    assert "- digits-lmt: certified predictions were changed" in report(tmp_path)[1]


def test_runs_that_are_there_are_not_overwritten_unasked(everything, listed, pretended, tmp_path):
    assert everything().exit_code == 0
    result = everything()
    assert result.exit_code == 2
    assert "--resume goes on from them, --overwrite replaces them" in result.stderr
    # A report that is gone is written again.
    (tmp_path / "reports" / "digits-lmt" / "report.json").unlink()
    pretended[0].clear()
    assert everything("--resume").exit_code == 0
    assert [(work.label, work.resume) for work in pretended[0]] == [("digits-lmt", True)]
    assert "seed from 0 to 3" in everything("--resume", "--seed", 3).stderr
    assert everything("--overwrite", "--seed", 3).exit_code == 0


def test_no_data_at_all_is_an_error(everything, listed, tmp_path):
    listed(Row("mnist-2c2f", "mnist-2c2f", 1), Row("cifar10-6c2f", "cifar10-6c2f", 1))
    result = everything("--data-dir", tmp_path)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: none of the data are there: no MNIST/raw")
    assert "; no cifar-10-batches-py/data_batch_1 under --data-dir; " in last


def test_images_in_a_folder_of_the_data_set_s_name_are_taken(everything, listed, pretended, tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "data" / "cifar10-small" / part / label).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "data" / "cifar10-small" / part / label / "1.jpg")
    listed(Row("cifar10-6c2f", "cifar10-6c2f", 1))
    assert everything("--data-dir", tmp_path / "data").exit_code == 0
    (work,) = pretended[0]
    assert work.request.fields == {"data": str(tmp_path / "data" / "cifar10-small")}
    data, _ = work.request.load_data(work.request.fields["data"], "")
    assert data.name == "cifar10-small"
    assert "re-encodings" in data.note


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--all", "digits"), "leave a recipe out"),
        (("--all", "--epochs", 3, "--set", "lam=1", "--label", "x"), "leave --set and --epochs and --label out"),
        (("--all", "--minutes", 0), "greater than 0"),
        (("--all", "--minutes", "nan"), "greater than 0"),
        (("digits", "--minutes", 3), "--minutes is for --all"),
        (("--all", "--resume", "--overwrite"), "one of the two"),
    ],
)
def test_options_that_make_no_sense_are_refused(refused, options, says):
    assert says in refused("reproduce", *options)
