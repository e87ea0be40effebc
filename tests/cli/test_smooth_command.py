from __future__ import annotations

import json

import pytest

FEW = ("--images", 5, "--samples", 50)


def test_numbers(invoke, run):
    pytest.importorskip("scipy", reason="intervals come from SciPy (extra smoothing)")
    result = invoke("smooth", run, *FEW, "--noise", 0.1, "--epsilon", "36/255")
    assert result.exit_code == 0, result.output
    found = json.loads((run / "smoothing.json").read_text())
    assert "the first 5 of " in result.stdout
    assert (found["images"], found["samples"], found["noise"], found["epsilon"]) == (5, 50, 0.1, 36 / 255)
    assert 0 <= found["vra"] <= 1


def test_a_run_without_noise_needs_it(refused, run):
    assert "--noise" in refused("smooth", run, *FEW)
