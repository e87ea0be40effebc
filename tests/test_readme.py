"""The example of the README runs as it is printed, for one epoch instead of twenty."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example(capsys):
    pytest.importorskip("sklearn", reason="the digits are in scikit-learn: install gloro-fast[demo]")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "range(20)" in example
    exec(compile(example.replace("range(20)", "range(2)"), str(README), "exec"), {})
    assert 0 < float(re.search(r"[\d.]+", capsys.readouterr().out)[0]) < 1


def test_pictures_and_links_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
