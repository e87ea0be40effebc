from __future__ import annotations

import json

import pytest
from PIL import Image

FEW = ("--pairs", 3, "--global-steps", 20, "--local-steps", 10)


def test_table_picture_and_numbers(invoke, run):
    result = invoke("tightness", run, *FEW)
    assert result.exit_code == 0, result.output
    found = json.loads((run / "tightness.json").read_text())
    assert found["method"] == "auto"
    assert 0 < found["global_lower"] < found["upper"]
    assert f"{found['global_ratio']:.2%}" in result.stdout
    # The paper has no row for the digits.
    assert "83%" not in result.stdout
    with Image.open(run / "tightness.png") as picture:
        picture.verify()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("--method", "atuo"), "'auto'"), (("--out", "t.pdf"), ".png"), (("--split", "tset"), "'test'")],
)
def test_bad_input(refused, run, arguments, says):
    assert says in refused("tightness", run, *FEW, *arguments)
    assert not (run / "tightness.png").exists()
