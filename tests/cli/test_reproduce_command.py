from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from gloro_fast import bounds
from gloro_fast.cli import app
from gloro_fast.reproduce.stages import Stages

pytestmark = pytest.mark.usefixtures("_needed")


@pytest.fixture(scope="session")
def _needed() -> None:
    for name in ("sklearn", "art", "scipy"):
        pytest.importorskip(name, reason=f"reproducing needs {name}")


@pytest.fixture(scope="session")
def made(_needed, tmp_path_factory):
    """Reports and runs after a whole reproduction of the digits in a few epochs; do not write to it."""
    folder = tmp_path_factory.mktemp("reproduced")
    result = CliRunner().invoke(app, ["reproduce", "digits", "--epochs", "2", *common(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copied")


def common(folder) -> list[str]:
    return [
        "--quick",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--out",
        str(folder / "reports"),
        "--runs",
        str(folder / "runs"),
    ]


def test_digits_end_to_end(made):
    folder = made / "reports" / "digits"
    text, content = (folder / "README.md").read_text(), json.loads((folder / "report.json").read_text())
    assert content["command"] == "gloro-fast reproduce digits --epochs 2 --quick"
    assert content["command"] in text
    assert content["recipe"]["epochs"] == 2
    vra, trials = content["vra"], content["attacks"]["trials"]
    assert vra["method"] == "auto"
    assert content["power"]["method"] == "power (estimate)"
    assert 0 < vra["vra"] <= content["power"]["vra"] < vra["clean_accuracy"]
    assert [(trial["name"], trial["broken"]) for trial in trials] == [("PGD", 0)]
    assert 0 < content["tightness"]["global_lower"] <= content["tightness"]["upper"]
    assert set(content["cost"]["training"]) == {"recipe", "standard"}
    assert content["cost"]["certification"]["images"] == 500
    assert content["machine"]["processor"]
    assert content["commit"]
    assert "quick look" in text
    assert "the paper's" not in text
    assert text.count("s/epoch") == 2
    for name in ("curves.png", "vra.png", "radii.png", "examples.png", "tightness.png"):
        assert f"({name})" in text
        with Image.open(folder / name) as picture:
            picture.verify()
    assert f"{100 * vra['vra']:.2f}" in text


@pytest.fixture(scope="module")
def resumed(made, tmp_path_factory):
    """A copy, killed before the last stages and while the report was written, and what a process that goes on says."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("resumed") / "copied")
    (folder / "runs" / "digits" / "measured" / "cost.json").unlink()
    shutil.rmtree(folder / "reports")
    command = [sys.executable, "-m", "gloro_fast", "reproduce", "digits", "--epochs", "2", "--resume", *common(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def test_resume_repeats_nothing_that_is_finished(made, resumed):
    folder, says = resumed
    before, after = (
        {file.name: file.stat().st_mtime_ns for file in (whole / "runs" / "digits" / "measured").iterdir()}
        for whole in (made, folder)
    )
    assert {"evaluation.json", "power.json", "attacks.json", "tightness.json", "cost.json"} == set(before)
    assert [line for line in says.splitlines() if line.startswith("measuring")] == ["measuring: cost"]
    times = [(whole / "runs" / "digits" / "model.safetensors").stat().st_mtime_ns for whole in (made, folder)]
    assert times[0] == times[1]
    assert {name for name in before if before[name] != after[name]} == {"cost.json"}
    assert (folder / "reports" / "digits" / "README.md").is_file()


def test_a_stage_of_other_weights_or_settings_is_made_anew(copied):
    from gloro_fast.data import load
    from gloro_fast.reproduce.effort import QUICK

    told: list[str] = []

    def stages(effort):
        return Stages(copied / "runs" / "digits", load("digits"), effort, 0, "cpu", told.append)

    stages(QUICK).attacks()
    assert told == []
    stages(dataclasses.replace(QUICK, attack_images=20)).attacks()
    assert told == ["attacks"]
    model = copied / "runs" / "digits" / "measured" / "power.json"
    model.write_text(model.read_text().replace('"weights": "', '"weights": "0'))
    stages(QUICK).power()
    assert told == ["attacks", "power"]


def test_another_method_measures_anew_what_rests_on_it(copied, invoke):
    result = invoke("reproduce", "digits", "--epochs", 2, "--resume", "--method", "tight", *common(copied))
    assert result.exit_code == 0, result.output
    told = [line.removeprefix("measuring: ") for line in result.stderr.splitlines() if line.startswith("measuring")]
    assert told == ["evaluation", "attacks", "tightness", "cost"]
    content = json.loads((copied / "reports" / "digits" / "report.json").read_text())
    assert content["vra"]["method"] == "tight"
    assert content["command"].endswith("--method tight --quick")


def test_what_is_there_is_not_overwritten_unasked(copied, refused):
    assert "--resume" in refused("reproduce", "digits", "--epochs", 2, *common(copied))
    assert "epochs from 2 to 3" in refused("reproduce", "digits", "--epochs", 3, "--resume", *common(copied))


def test_a_broken_certificate_stops_everything(copied, refused, monkeypatch):
    honest = bounds.METHODS["auto"]

    def too_small(name, layer):
        bound = honest(name, layer)
        return dataclasses.replace(bound, value=bound.value / 10)

    monkeypatch.setitem(bounds.METHODS, "auto", too_small)
    shutil.rmtree(copied / "runs" / "digits" / "measured")
    shutil.rmtree(copied / "reports")
    last = refused("reproduce", "digits", "--epochs", 2, "--resume", *common(copied), announced=("measuring",))
    assert "certified predictions were changed" in last
    assert not (copied / "runs" / "digits" / "measured" / "attacks.json").exists()
    assert not (copied / "reports" / "digits" / "README.md").exists()


def test_randomized_smoothing_chooses_its_noise(invoke, tmp_path):
    result = invoke("reproduce", "digits-smoothing", "--epochs", 1, "--label", "rs", *common(tmp_path))
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "reports" / "rs" / "report.json").read_text())
    tried = content["smoothing"]["tried"]
    assert [trial["noise"] for trial in tried] == [0.12, 0.24, 0.48]
    assert content["smoothing"]["chosen"] == content["recipe"]["noise"] == content["smoothing"]["test"]["noise"]
    assert max(trial["vra"] for trial in tried) == next(
        trial["vra"] for trial in tried if trial["noise"] == content["recipe"]["noise"]
    )
    text = (tmp_path / "reports" / "rs" / "README.md").read_text()
    assert "held out of training" in text
    assert "wrong with probability 0.001" in text


def test_the_list_names_the_rows(invoke):
    result = invoke("reproduce", "--list")
    assert result.exit_code == 0
    for name in ("mnist-2c2f ", "mnist-2c2f-relu-ce", "mnist-4c3f-lmt", "mnist-2c2f-smoothing", "cifar10-6c2f "):
        assert name in result.stdout
    for figure in ("Figure 4a, Figure 4c", "Figure 4b", "Figure D.1", "Table C.1"):
        assert figure in result.stdout
    assert ["digits", "none", "-", "-", "-", "-"] in [line.split() for line in result.stdout.splitlines()]


def test_torch_writes_no_notes_of_its_own(resumed):
    """Its profiler, which counts the bytes of a step, speaks from C++."""
    says = resumed[1]
    # On a busy machine it says how far it is.
    assert next(line for line in says.splitlines() if " so far" not in line) == "measuring: cost"
    assert "USDT" not in says
    assert "CPUAllocator" not in says


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--list"),
        (("digit",), "'digits'"),
        (("digits", "--resume", "--overwrite"), "one of the two"),
        (("digits", "--set", "epoch=3"), "'epochs'"),
    ],
)
def test_bad_input(refused, arguments, says):
    assert says in refused("reproduce", *arguments)
