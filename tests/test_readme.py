"""The example of the README runs as it is printed, for one epoch instead of twenty."""

import re
import runpy
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example(capsys):
    pytest.importorskip("sklearn", reason="the digits are in scikit-learn: install gloro-fast[demo]")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "range(20)" in example
    exec(compile(example.replace("range(20)", "range(2)"), str(README), "exec"), {})
    assert 0 < float(re.search(r"[\d.]+", capsys.readouterr().out)[0]) < 1


def test_the_example_of_a_loop_of_ones_own(capsys, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits are in scikit-learn: install gloro-fast[demo]")
    monkeypatch.setattr("sys.argv", ["graphed_step.py", "--epochs", "2"])
    runpy.run_path(str(README.parent / "examples" / "graphed_step.py"), run_name="__main__")
    printed = re.findall(r"[\d.]+(?=$|%)", capsys.readouterr().out, flags=re.MULTILINE)
    first, second, vra = map(float, printed)
    assert second < first
    assert vra > 10


def test_the_example_of_radii_in_onnx_runtime(capsys, monkeypatch):
    for package in ("sklearn", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the example needs gloro-fast[demo,onnx]")
    monkeypatch.setattr("sys.argv", ["onnx_radii.py", "--epochs", "2"])
    runpy.run_path(str(README.parent / "examples" / "onnx_radii.py"), run_name="__main__")
    theirs, ours = map(int, re.search(r"(\d+) of 500 by ONNX, (\d+) by us", capsys.readouterr().out).groups())
    assert 0 < theirs <= ours


def test_pictures_and_links_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
