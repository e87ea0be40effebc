"""From a folder of images of one's own to a certified net, without a recipe."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from PIL import Image

NEUTRAL = ("--architecture", "2C2F", "--epsilon", 0.1, "--epochs", 1, "--batch-size", 8, "--threads", 1)


@pytest.fixture
def pets(tmp_path):
    """Two classes of ten images that differ in brightness, without a test split."""
    pixels = np.random.default_rng(0)
    for name, brightness in (("cat", 60), ("dog", 180)):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for number in range(10):
            values = brightness + pixels.integers(-40, 40, (8, 8))
            Image.fromarray(values.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "pets"


def test_a_folder_of_classes_needs_no_recipe(invoke, refused, pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("train", "--data", "pets", *NEUTRAL)
    assert result.exit_code == 0, result.output
    assert "training neutral on pets (16 training images; pets has no test split: 4 of 20 images" in result.stderr
    run = tmp_path / "runs" / "neutral"
    found = json.loads((run / "result.json").read_text())
    assert (found["recipe"], found["test_images"], found["epsilon"]) == ("neutral", 4, 0.1)
    assert "0.2 of each class at random (seed 0)" in found["data_note"]
    assert "neutral" in result.stdout
    # Every later command holds out the same images.
    result = invoke("evaluate", run, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "4 images" in result.stdout
    assert "no test split" in result.stdout
    (run / "result.json").unlink()
    assert "test_share from 0.2 to 0.5" in refused("train", "--resume", "--out", run, "--test-share", 0.5)


def test_the_share_is_kept_with_the_run(invoke, pets, tmp_path):
    run = tmp_path / "run"
    result = invoke("train", "--data", pets, *NEUTRAL, "--test-share", 0.4, "--out", run)
    assert result.exit_code == 0, result.output
    assert tomllib.loads((run / "config.toml").read_text())["test_share"] == 0.4
    result = invoke("certify", run, "--device", "cpu", "--certificate", tmp_path / "c.json")
    assert result.exit_code == 0, result.output
    assert "8 images" in result.stdout
    pytest.importorskip("scipy", reason="audit needs scipy: install gloro-fast[audit]")
    assert invoke("audit", tmp_path / "c.json", "--model", run).exit_code == 0
    again = tmp_path / "again"
    assert invoke("train", "--recipe", run / "config.toml", "--out", again, "--threads", 1).exit_code == 0
    assert (again / "result.json").exists()
    assert tomllib.loads((again / "config.toml").read_text())["test_share"] == 0.4


@pytest.mark.parametrize("left_out", ["--data", "--architecture", "--epsilon"])
def test_what_a_neutral_recipe_needs_is_named(refused, tmp_path, left_out):
    options = {"--data": "digits", "--architecture": "2C2F", "--epsilon": "0.3"}
    given = [part for option in options.items() if option[0] != left_out for part in option]
    assert f"({left_out} is missing)" in refused("train", *given, "--out", tmp_path / "run")
