from __future__ import annotations

import json
import signal
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from gloro_fast.train import ProgressBar

pytestmark = pytest.mark.usefixtures("_digits")
QUICK = ("--recipe", "digits", "--threads", 1, "--device", "cpu")


def test_a_run_folder_is_complete_and_the_table_says_what_it_rests_on(invoke, tmp_path):
    out = tmp_path / "run"
    result = invoke("train", *QUICK, "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    names = {"model.safetensors", "config.toml", "metrics.csv", "curves.png", "result.json"}
    assert names <= {file.name for file in out.iterdir()}
    found = json.loads((out / "result.json").read_text())
    assert found["method"] == "auto"
    for text in (f"{found['vra']:.2%}", f"{found['clean_accuracy']:.2%}", "auto", str(out), "median"):
        assert text in result.stdout
    assert "\x1b" not in result.output


def test_curves_are_a_picture(trained):
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_every_field_of_the_recipe_reaches_the_run(invoke, tmp_path):
    fields = {
        "batch_size": 256,
        "epsilon": 0.2,
        "epsilon_train": 0.25,
        "epsilon_schedule": "0.1,0.25,1",
        "loss": "trades-ce",
        "lam": "0.5",
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "learning_rate_end": 1e-5,
        "weight_decay": 0.1,
        "warmup_epochs": 1,
        "power_iterations": 2,
        "precision": "float32",
        "data": "digits",
        "augmentation": "tfds",
        "noise": 0.25,
        "validation_size": 100,
        "architecture": "4C3F",
        "activation": "relu",
        "initialization": "glorot_uniform",
        "epochs": 1,
    }
    options = [part for name, value in fields.items() for part in ("--" + name.replace("_", "-"), value)]
    result = invoke("train", *QUICK, *options, "--seed", 7, "--set", "name=mine", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["recipe"] == {"name": "mine", **fields}
    assert (config["seed"], config["threads"]) == (7, 1)


def test_radii_in_bytes(invoke, tmp_path):
    options = (
        "--epsilon",
        "36/255",
        "--epsilon-train",
        "40/255",
        "--epsilon-schedule",
        "1/255,40/255,1",
        "--epochs",
        1,
    )
    result = invoke("train", *QUICK, *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    recipe = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["recipe"]
    assert (recipe["epsilon"], recipe["epsilon_train"]) == (36 / 255, 40 / 255)
    assert recipe["epsilon_schedule"] == "1/255,40/255,1"


def test_set_converts_to_the_type_of_the_field_and_the_folder_is_named_by_the_recipe(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ("epochs=1", "epsilon = 51/255", "batch-size=600", "name=mine")
    result = invoke("train", *QUICK, *(part for text in settings for part in ("--set", text)))
    assert result.exit_code == 0, result.output
    recipe = tomllib.loads((tmp_path / "runs" / "mine" / "config.toml").read_text())["recipe"]
    assert (recipe["epochs"], recipe["epsilon"], recipe["batch_size"]) == (1, 0.2, 600)
    assert recipe["epsilon_train"] == pytest.approx(0.2)
    assert recipe["lam"] == "0.1,2.0,1"


def test_a_config_of_another_run_repeats_it(invoke, run, tmp_path):
    again = tmp_path / "again"
    result = invoke("train", "--recipe", run / "config.toml", "--threads", 1, "--device", "cpu", "--out", again)
    assert result.exit_code == 0, result.output
    assert_same_weights(again, run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_resume_with_out_alone_gives_the_same_bits(
    invoke, trained, tmp_path, monkeypatch, number, code
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(
            ProgressBar, "on_step", lambda bar, step: signal.raise_signal(number) if step.batch == 9 else None
        )
        stopped = invoke("train", *QUICK, "--epochs", 2, "--out", out)
    assert stopped.exit_code == code
    assert "--resume" in stopped.stderr.splitlines()[-1]
    assert "Traceback" not in stopped.output
    assert not (out / "result.json").exists()
    resumed = invoke("train", "--out", out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert_same_weights(out, trained)


def test_a_run_killed_before_its_config_was_written_goes_on(invoke, run, trained):
    """The first checkpoint is written before config.toml."""
    for name in ("config.toml", "result.json", "model.safetensors"):
        (run / name).unlink()
    resumed = invoke("train", "--out", run, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert_same_weights(run, trained)
    assert (run / "config.toml").read_bytes() == (trained / "config.toml").read_bytes()


def test_a_run_killed_in_its_first_save_is_begun_anew(invoke, tmp_path):
    (tmp_path / ".checkpoint.safetensors.123.tmp").write_bytes(b"half")
    result = invoke("train", *QUICK, "--epochs", 1, "--batch-size", 600, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert list(tmp_path.glob(".*")) == [tmp_path / ".lock"]


def test_help_says_which_schedules_stretch_with_the_epochs(invoke):
    text = " ".join(invoke("train", "--help").stdout.replace("│", " ").split())
    assert text.count("--epochs does not stretch what is given here") == 2


def test_overwrite_takes_the_place_of_a_run_and_tensorboard_writes_beside_it(invoke, run):
    pytest.importorskip("tensorboard")
    result = invoke("train", *QUICK, "--epochs", 1, "--batch-size", 600, "--out", run, "--overwrite", "--tensorboard")
    assert result.exit_code == 0, result.output
    assert json.loads((run / "result.json").read_text())["epochs"] == 1
    assert list((run / "tensorboard").glob("events.*"))


def assert_same_weights(run, other):
    weights, expected = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_graphs_and_determinism_reach_the_run(invoke, refused, tmp_path):
    given = ("train", *QUICK, "--epochs", 1, "--out")
    assert invoke(*given, tmp_path / "a").exit_code == 0
    assert invoke(*given, tmp_path / "b", "--graphs", "off", "--nondeterministic").exit_code == 0
    assert json.loads((tmp_path / "a" / "result.json").read_text())["graphs"] == "there are none on cpu"
    assert json.loads((tmp_path / "b" / "result.json").read_text())["graphs"] == "switched off"
    for name, deterministic in (("a", True), ("b", False)):
        assert tomllib.loads((tmp_path / name / "config.toml").read_text())["deterministic"] is deterministic
    assert "--graphs is 'of'" in refused(*given, tmp_path / "c", "--graphs", "of")


def test_tf32_reaches_the_run_and_stays(invoke, refused, tmp_path):
    given = ("train", *QUICK, "--epochs", 1, "--out")
    for options, value in (((), "torch"), (("--tf32",), "on"), (("--no-tf32",), "off")):
        assert invoke(*given, tmp_path / value, *options).exit_code == 0
        assert tomllib.loads((tmp_path / value / "config.toml").read_text())["tf32"] == value
    message = refused("train", "--resume", "--tf32", "--out", tmp_path / "off")
    assert "--resume cannot change tf32 from 'off' to 'on'" in message
