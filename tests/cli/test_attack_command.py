from __future__ import annotations

import dataclasses
import json

import pytest

from gloro_fast import bounds

FEW = ("--steps", 5, "--restarts", 1, "--images", 60)


@pytest.fixture
def _toolbox() -> None:
    pytest.importorskip("art", reason="attacks need the Adversarial Robustness Toolbox (extra attack)")


@pytest.mark.usefixtures("_toolbox")
def test_table_and_numbers(invoke, run):
    result = invoke("attack", run, *FEW, "--auto-attack", "--queries", 10)
    assert result.exit_code == 0, result.output
    found = json.loads((run / "attack.json").read_text())
    assert [trial["name"] for trial in found["trials"]] == ["PGD", "AutoAttack"]
    assert found["images"] == 60
    assert found["method"] == "auto"
    assert found["vra"] <= found["trials"][0]["accuracy"] <= found["clean_accuracy"]
    assert f"0 of {found['certified']}" in result.stdout
    assert "test split, the first 60 of 500 images" in result.stdout


@pytest.mark.usefixtures("_toolbox")
def test_a_broken_certificate_ends_in_an_error_after_the_table(invoke, run, monkeypatch):
    honest = bounds.METHODS["auto"]

    def too_small(name, layer):
        bound = honest(name, layer)
        return dataclasses.replace(bound, value=bound.value / 10)

    monkeypatch.setitem(bounds.METHODS, "auto", too_small)
    result = invoke("attack", run, *FEW, "--epsilon", "3/2")
    assert result.exit_code == 2
    assert "broken certificates" in result.stdout
    assert result.stderr.startswith("error: certified predictions were changed")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("--epsilon", 0), "epsilon is 0"), (("--out", "a.txt"), ".json"), (("--steps", 0), "--steps")],
)
def test_bad_input(refused, run, arguments, says):
    assert says in refused("attack", run, *arguments)
    assert not (run / "attack.json").exists()
