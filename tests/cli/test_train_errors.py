"""What train refuses: one line, exit code 2, and no run folder."""

from __future__ import annotations

import numpy as np
import pytest

from gloro_fast.files import atomic

pytestmark = pytest.mark.usefixtures("_digits")
DIGITS = ("--recipe", "digits", "--threads", 1, "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--recipe"),
        (("--recipe", "mnits-2c2f"), "did you mean 'mnist-2c2f'?"),
        (("--recipe", "nowhere/config.toml"), "nowhere/config.toml"),
        ((*DIGITS, "--epsilon", "0"), "epsilon is 0"),
        ((*DIGITS, "--epsilon", "-0.3"), "epsilon is -0.3"),
        ((*DIGITS, "--epsilon", "nan"), "epsilon is nan"),
        ((*DIGITS, "--epsilon", "inf"), "epsilon is inf"),
        ((*DIGITS, "--epsilon", "36/x"), "'36/x' is no number; write one such as 0.3 or 36/255"),
        ((*DIGITS, "--epsilon-train", "0"), "epsilon_train is 0"),
        ((*DIGITS, "--epochs", "0"), "epochs is 0"),
        ((*DIGITS, "--log", "wandbb"), "did you mean 'wandb'?"),
        ((*DIGITS, "--loss", "trades"), "did you mean 'trades-"),
        ((*DIGITS, "--architecture", "2C3F"), "2C3F"),
        ((*DIGITS, "--lam", "a lot"), "'a lot'"),
        ((*DIGITS, "--seed", "-1"), "seed is -1"),
        ((*DIGITS, "--batch-size", "5000"), "5000"),
        ((*DIGITS, "--validation-size", "5000"), "5000"),
        ((*DIGITS, "--device", "tpu9"), "tpu9"),
        ((*DIGITS, "--set", "epsilom=0.2"), "did you mean 'epsilon'?"),
        ((*DIGITS, "--set", "epochs"), "FIELD=VALUE"),
        ((*DIGITS, "--set", "epochs=many"), "epochs must be a whole number"),
        ((*DIGITS, "--set", "epsilon=wide"), "epsilon must be a number"),
        ((*DIGITS, "--set", "epochs=3", "--epochs", "4"), "epochs is given twice"),
        ((*DIGITS, "--data", "mnits"), "did you mean 'mnist'?"),
        ((*DIGITS, "--resume", "--overwrite"), "--overwrite"),
        (("--recipe", "mnist-2c2f"), "--data-dir"),
        (("--recipe", "mnist-2c2f", "--data-dir", "nowhere"), "nowhere"),
        (("--recipe", "cifar10-6c2f", "--data-dir", "."), "cifar-10-batches-py"),
        ((*DIGITS, "--device", "meta"), "device 'meta' cannot be used"),
        ((*DIGITS, "--epochs", "two"), "'--epochs'"),
        ((*DIGITS, "--threads", "0"), "'--threads'"),
        ((*DIGITS, "--batch-size", "0"), "batch_size is 0"),
        ((*DIGITS, "--epohcs", "3"), "--epochs"),
        ((*DIGITS, "extra"), "extra"),
    ],
)
def test_bad_input(refused, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused("train", "--out", "run", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_divergence(refused, tmp_path):
    arguments = (*DIGITS, "--learning-rate", "1e30", "--epochs", "1")
    assert "NaN" in refused("train", *arguments, "--out", tmp_path / "run", announced=("training digits",))


@pytest.mark.parametrize("arguments", [("--nonsense",), ("trian",)])
def test_usage_errors_before_the_command(refused, arguments):
    assert arguments[0] in refused(*arguments)


@pytest.mark.parametrize("device", ["meta", "tpu9"])
def test_resume_on_a_device_that_cannot_be_used(refused, run, device):
    (run / "result.json").unlink()
    assert f"device '{device}' cannot be used" in refused("train", "--resume", "--out", run, "--device", device)


def test_damaged_data(refused, tmp_path):
    archive = tmp_path / "small.npz"
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    np.savez(archive, x_train=images, y_train=labels, x_test=images, y_test=labels)
    archive.write_bytes(archive.read_bytes()[:-40])
    assert "small.npz" in refused("train", *DIGITS, "--data", archive, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_kept(refused, run):
    before = (run / "model.safetensors").read_bytes()
    assert "--overwrite" in refused("train", *DIGITS, "--epochs", 1, "--out", run)
    assert (run / "model.safetensors").read_bytes() == before


def test_resume_names_every_changed_field(refused, run):
    line = refused("train", "--resume", "--out", run, "--epsilon", 0.4, "--set", "activation=relu", "--seed", 5)
    assert all(text in line for text in ("epsilon from 0.3 to 0.4", "activation", "seed from 0 to 5"))
    assert "recipe from 'digits' to 'mnist-2c2f'" in refused(
        "train", "--resume", "--out", run, "--recipe", "mnist-2c2f"
    )


def test_resume_needs_a_run(refused, tmp_path, run):
    assert "--out" in refused("train", "--resume")
    assert "nothing" in refused("train", "--resume", "--out", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    assert "finished" in refused("train", "--resume", "--out", run)


def test_resume_with_other_threads_warns_in_one_line(invoke, run):
    (run / "result.json").unlink()
    result = invoke("train", "--resume", "--out", run, "--threads", 2)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert "1 CPU threads" in line


def test_a_full_disk_is_one_line(refused, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    arguments = (*DIGITS, "--epochs", 1, "--out", tmp_path / "run")
    assert "No space left" in refused("train", *arguments, announced=("training digits",))
    assert list((tmp_path / "run").glob("*")) == [tmp_path / "run" / ".lock"]


def test_a_fault_of_the_program_keeps_its_traceback(invoke, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("gloro_fast.cli.runs.load", broken)
    result = invoke("train", *DIGITS, "--out", tmp_path / "run")
    assert isinstance(result.exception, ZeroDivisionError)
