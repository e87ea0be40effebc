from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from gloro_fast import GloRoNet, data
from gloro_fast.cli.relaxing import chosen_relaxation
from gloro_fast.errors import ConfigError
from gloro_fast.evaluate import certify_relaxed
from gloro_fast.files import atomic
from gloro_fast.train.trained_net import load_net


def test_a_csv_has_a_row_for_every_image_with_what_certify_says(invoke, run):
    result = invoke("certify", run, "--epsilon", 0.1)
    assert result.exit_code == 0, result.output
    with open(run / "certificates.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    net, _ = load_net(run)
    test = data.load("digits").test
    certificate = net.certify(data.to_float(test.images), 0.1)
    assert list(rows[0]) == ["index", "label", "prediction", "certified", "radius", "epsilon", "method", "executed"]
    assert [int(row["index"]) for row in rows] == list(range(len(test)))
    assert [int(row["label"]) for row in rows] == test.labels.tolist()
    assert [int(row["prediction"]) for row in rows] == certificate.prediction.tolist()
    assert [float(row["radius"]) for row in rows] == pytest.approx(certificate.radius.tolist(), abs=1e-5)
    for row in rows:
        assert (row["certified"] == "true") == (float(row["radius"]) > 0.1)
        assert (row["epsilon"], row["method"], row["executed"]) == ("0.1", "auto", "false")
    sure = [row for row in rows if row["certified"] == "true" and row["label"] == row["prediction"]]
    assert f"{len(sure) / len(rows):.2%}" in result.stdout
    assert "by auto" in result.stdout


def test_json_has_the_summary_and_the_samples(invoke, run, tmp_path):
    out = tmp_path / "all.json"
    result = invoke("certify", run, "--split", "train", "--method", "power", "--out", out)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert (content["data"], content["split"], content["epsilon"]) == ("digits", "train", 0.3)
    assert content["method"] == "power (estimate)"
    samples = content["samples"]
    assert len(samples) == content["images"] == 1297
    sure = [s for s in samples if s["certified"] and s["label"] == s["prediction"]]
    assert content["vra"] == pytest.approx(len(sure) / len(samples))
    assert [s["certified"] for s in samples] == [s["radius"] > 0.3 for s in samples]
    assert not (run / "certificates.csv").exists()


def test_executed_gives_both_shares(invoke, run):
    result = invoke("certify", run, "--executed", "--out", run / "all.json")
    assert result.exit_code == 0, result.output
    content = json.loads((run / "all.json").read_text())
    net, _ = load_net(run)
    test = data.load("digits").test
    certificate = net.certify(data.to_float(test.images), executed=True)
    assert content["executed"] is True
    assert [s["radius"] for s in content["samples"]] == pytest.approx(certificate.radius.tolist(), rel=1e-4)
    correct = certificate.prediction == test.labels
    assert content["vra"] == (correct & certificate.certified).double().mean()
    assert content["real_vra"] == (correct & (certificate.real_radius > 0.3)).double().mean()
    assert f"{content['vra']:.2%} ({content['real_vra']:.2%} in real arithmetic)" in result.stdout


def test_relaxed_rows_name_the_set_that_is_certified(invoke, run):
    result = invoke("certify", run, "--top-k", 2, "--executed", "--epsilon", 0.2)
    assert result.exit_code == 0, result.output
    with open(run / "relaxed-certificates.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    net, _ = load_net(run)
    test = data.load("digits").test
    found = certify_relaxed(net, data.to_float(test.images), 2, 0.2, executed=True)
    assert list(rows[0]) == [
        "index", "label", "set", "certified", "radius", "epsilon", "method", "executed", "guarantee"
    ]  # fmt: skip
    assert [row["certified"] == "true" for row in rows] == found.certified.tolist()
    held = 0
    for row, classes, size, y in zip(
        rows, found.classes.tolist(), found.size.tolist(), test.labels.tolist(), strict=True
    ):
        assert (row["certified"] == "true") == (float(row["radius"]) > 0.2)
        named = [int(name) for name in row["set"].split()]
        assert named == (classes[:size] if size else named)
        assert (row["executed"], row["guarantee"]) == ("true", "top-2")
        held += size > 0 and y in named
    assert {len(row["set"].split()) for row in rows} == {1, 2}
    assert held == found.holds(test.labels).sum()
    assert "relaxed, top-2" in result.stdout
    assert f"relaxed VRA at epsilon 0.2 {held / len(rows):.2%}" in " ".join(result.stdout.split())


def test_relaxed_json_by_affinity_sets(invoke, run, tmp_path):
    (tmp_path / "sets.json").write_text('[["3", 5], [1, 9]]')
    result = invoke("certify", run, "--affinity", tmp_path / "sets.json", "--out", run / "all.json")
    assert result.exit_code == 0, result.output
    content = json.loads((run / "all.json").read_text())
    assert content["relaxation"] == [[3, 5], [1, 9]]
    assert "vra" not in content
    assert "clean_accuracy" not in content
    sure = [s for s in content["samples"] if s["certified"] and s["label"] in s["set"]]
    assert content["relaxed_vra"] == content["real_relaxed_vra"] == len(sure) / content["images"]
    assert {tuple(sorted(s["set"])) for s in content["samples"] if len(s["set"]) > 1} <= {(3, 5), (1, 9)}
    assert "relaxed, affinity 3+5, 1+9" in result.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[3, 5]", "cannot be read"),
        ("{}", "has no list of sets"),
        ("[[]]", "has no list of sets"),
        ('[["three", 5]]', "has the class 'three'"),
        ("[[3, 10]]", "has the class 10; classes are 0 to 9"),
        ("[[true, 3]]", "has the class True; classes are 0 to 9"),
    ],
)
def test_what_are_no_affinity_sets_is_named(tmp_path, text, says):
    (tmp_path / "sets.json").write_text(text)
    with pytest.raises(ConfigError, match=says):
        chosen_relaxation(None, tmp_path / "sets.json", [str(digit) for digit in range(10)])


def test_other_data_by_path(invoke, run, tmp_path):
    test = data.load("digits").test
    archive = tmp_path / "some.npz"
    images, labels = test.images[:7, 0].numpy(), test.labels[:7].numpy()
    np.savez(
        archive, x_train=images, y_train=labels, x_test=images, y_test=labels, class_names=np.array(list("0123456789"))
    )
    result = invoke("certify", run, "--data", archive)
    assert result.exit_code == 0, result.output
    assert "some, test split, 7 images" in result.stdout


def test_a_warning_of_every_batch_is_one_line(invoke, run, tmp_path):
    test = data.load("digits").test
    archive = tmp_path / "bright.npz"
    images = test.images[:60, 0].float().numpy() / 255 * torch.arange(2, 62).reshape(60, 1, 1).numpy() - 1
    labels = test.labels[:60].numpy()
    np.savez(archive, x_train=images, y_train=labels, x_test=images, y_test=labels)
    result = invoke("certify", run, "--data", archive, "--batch-size", 10)
    assert result.exit_code == 0, result.output
    warned = result.stderr.splitlines()
    # Both splits and every batch have such pixels.
    assert len(warned) == 1
    assert warned[0].startswith("warning: x_train of ")
    assert "outside [0, 1]" in warned[0]
    assert warnings.showwarning.__module__ != "gloro_fast.cli.reporting"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--epsilon", "0"), "epsilon is 0"),
        (("--epsilon", "-1"), "epsilon is -1"),
        (("--epsilon", "nan"), "epsilon is nan"),
        (("--epsilon", "0/255"), "epsilon is 0"),
        (("--epsilon", "36/"), "'36/' is no number; write one such as 0.3 or 36/255"),
        (("--method", "pwoer"), "did you mean 'power'?"),
        (("--split", "tets"), "did you mean 'test'?"),
        (("--out", "certificates.txt"), ".csv or .json"),
        (("--out", "nowhere/certificates.csv"), "nowhere"),
        (("--data", "fashion"), "did you mean 'fashion-mnist'?"),
        (("--data", "mnist"), "--data-dir"),
        (("--top-k", "10"), "sets of 10 of 10 classes never change"),
        (("--top-k", "2", "--affinity", "no.json"), "choose one"),
        (("--affinity", "no.json"), "no.json cannot be read"),
        (("--top-k", "2", "--certificate", "c.json"), "states ordinary radii, which audit checks"),
        (("--device", "tpu9"), "tpu9"),
    ],
)
def test_bad_input(refused, run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert says in refused("certify", run, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((4, 9, 9), np.uint8), [0, 1, 2, 1], "9"),
        (np.zeros((4, 8, 8), np.float64), [0, 1, 11, 1], "11"),
        (np.full((4, 8, 8), np.nan), [0, 1, 2, 1], "NaN"),
    ],
)
def test_data_that_does_not_fit_the_net(refused, run, tmp_path, images, labels, says):
    archive = tmp_path / "other.npz"
    names = np.array([str(name) for name in range(12)])
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(archive, **arrays, class_names=names)
    assert says in refused("certify", run, "--data", archive)
    assert not (run / "certificates.csv").exists()


def test_a_run_that_cannot_be_used(refused, run, tmp_path):
    assert "nothing" in refused("certify", tmp_path / "nothing")
    model, config = run / "model.safetensors", run / "config.toml"
    whole = model.read_bytes()
    model.write_bytes(whole[:-100])
    assert "model.safetensors" in refused("certify", run)
    model.write_bytes(whole)
    text = config.read_text()
    config.write_text(text.replace("2C2F", "4C3F"))
    assert "architecture from '2C2F' to '4C3F'" in refused("certify", run)
    config.write_text(text.replace("epsilon = 0.3", "epsilon = 0.1"))
    assert "epsilon from 0.3 to 0.1" in refused("certify", run)
    assert "epsilon from 0.3 to 0.1" in refused("evaluate", run)
    config.write_text(config.read_text().replace("activation", "activatoin"))
    assert "did you mean 'activation'?" in refused("certify", run)
    assert not (run / "certificates.csv").exists()


def test_a_full_disk_leaves_the_file_that_was_there(refused, run, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (run / "certificates.csv").write_text("as before")
    before = set(run.iterdir())
    monkeypatch.setattr(atomic.os, "fsync", full)
    assert "No space left" in refused("certify", run)
    assert (run / "certificates.csv").read_text() == "as before"
    assert {path.name for path in set(run.iterdir()) - before} == {"certificates.csv.partial"}


def rows_in(path):
    text = path.read_text()
    assert text.endswith("\n")
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_after_a_batch_whose_rows_are_kept(invoke, run, monkeypatch, number):
    batches = []
    certify = GloRoNet.certify

    def signalled(net, *arguments, **options):
        batches.append(len(arguments[0]))
        if len(batches) == 3:
            os.kill(os.getpid(), number)
        return certify(net, *arguments, **options)

    monkeypatch.setattr(GloRoNet, "certify", signalled)
    (run / "certificates.csv").write_text("as before")
    result = invoke("certify", run, "--batch-size", 50)
    assert result.exit_code == 128 + number
    assert result.stdout == ""
    partial = run / "certificates.csv.partial"
    assert result.stderr.splitlines()[-1].startswith("warning: stopped after 150 of 500 images; they are in ")
    assert (run / "certificates.csv").read_text() == "as before"
    stopped = rows_in(partial)
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert invoke("certify", run, "--batch-size", 50).exit_code == 0
    assert not partial.exists()
    whole = rows_in(run / "certificates.csv")
    assert stopped == whole[:150]
    assert len(whole) == 500


def test_an_error_in_the_middle_leaves_the_rows_before(refused, run, monkeypatch):
    certify, batches = GloRoNet.certify, []

    def failing(net, *arguments, **options):
        batches.append(None)
        if len(batches) == 4:
            net.module[0].weight.data.mul_(2)
        return certify(net, *arguments, **options)

    monkeypatch.setattr(GloRoNet, "certify", failing)
    assert "has changed" in refused("certify", run, "--batch-size", 100)
    assert len(rows_in(run / "certificates.csv.partial")) == 300


_SLOW = """
import sys, time
from gloro_fast import GloRoNet
from gloro_fast.cli import main
certify = GloRoNet.certify
def slowly(*arguments, **options):
    time.sleep(0.2)
    return certify(*arguments, **options)
GloRoNet.certify = slowly
main()
"""


def test_a_killed_process_leaves_whole_rows(run):
    command = [sys.executable, "-c", _SLOW, "certify", run, "--batch-size", "40", "--device", "cpu", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial, deadline = run / "certificates.csv.partial", time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    rows = rows_in(partial)
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    assert len(rows) % 40 == 0
    assert 0 < len(rows) < 500
    assert not (run / "certificates.csv").exists()
