from __future__ import annotations

import json
import platform

import pytest
import torch

import gloro_fast
from gloro_fast import bounds, data, ops
from gloro_fast.cli import kernels
from gloro_fast.cli.kernels import active_kernels
from gloro_fast.native import dispatch, extension


def test_it_says_what_runs_where_and_why(invoke):
    result = invoke("info")
    assert result.exit_code == 0, result.output
    for text in (gloro_fast.__version__, torch.__version__, platform.python_version(), "estimate", *data.NAMES):
        assert str(text) in result.stdout
    for op in ("minmax", "margin", "power_iteration"):
        assert op in result.stdout.split()


def test_kernels_are_those_that_are_registered(invoke):
    known = json.loads(invoke("info", "--json").stdout)
    rows = {row["op"]: row for row in known["kernels"] if row["device"] == "cpu"}
    assert set(rows) == {name for name in ops.__all__ if f"{name}_reference" in ops.__all__}
    assert rows["minmax"]["runs"] == ("compiled" if extension.available() else "PyTorch reference")
    assert known["extension"]["available"] == extension.available()
    assert known["bound_methods"].keys() == bounds.METHODS.keys()
    assert known["bound_methods"]["power"] == "estimate"


@pytest.mark.parametrize(("holds_back", "runs"), [(True, "oneDNN"), (False, "PyTorch reference")])
def test_it_says_which_library_multiplies_dense_layers(invoke, monkeypatch, holds_back, runs):
    monkeypatch.setattr(kernels, "mkl_holds_back", lambda: holds_back)
    rows = {row["op"]: row for row in json.loads(invoke("info", "--json").stdout)["kernels"] if row["device"] == "cpu"}
    assert rows["dense"]["runs"] == runs


def test_without_the_extension_it_says_why(invoke, monkeypatch):
    monkeypatch.setattr(kernels, "mkl_holds_back", lambda: False)
    monkeypatch.setattr(extension, "why_not", lambda: "it was left out")
    known = json.loads(invoke("info", "--json").stdout)
    assert {row["runs"] for row in known["kernels"]} == {"PyTorch reference"}
    assert {row["why"] for row in known["kernels"]} == {"it was left out"}


def test_kernels_on_a_gpu_are_those_that_would_run(invoke, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    rows = {row["op"]: row for row in json.loads(invoke("info", "--json").stdout)["kernels"] if row["device"] == "cuda"}
    assert rows["minmax"]["runs"] == "PyTorch reference"
    if extension.available():
        assert "triton is not installed" in rows["minmax"]["why"]
        monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
        assert {row["op"]: row["runs"] for row in active_kernels() if row["device"] == "cuda"}["minmax"] == "Triton"


def test_of_a_run_it_says_which_constants_margins_have(invoke, trained):
    result = invoke("info", trained)
    assert result.exit_code == 0, result.output
    net = json.loads(invoke("info", trained, "--json").stdout)["net"]
    assert net["margins"].startswith("K_ij = K ||w_i - w_j||, w_i the rows of ")
    assert net["margins"] in " ".join(result.stdout.split())
    assert (net["classes"], net["recipe"]) == (10, "digits")
    assert "net" not in json.loads(invoke("info", "--json").stdout)
