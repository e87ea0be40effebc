from __future__ import annotations

import json

import pytest
from PIL import Image


def test_table_picture_and_numbers(invoke, run):
    result = invoke("evaluate", run, "--radii", "0.05,0.1,0.3")
    assert result.exit_code == 0, result.output
    trained = json.loads((run / "result.json").read_text())
    found = json.loads((run / "vra.json").read_text())
    assert found["clean_accuracy"] == trained["clean_accuracy"]
    assert found["vra"] == trained["vra"] == found["radii"][2]["vra"]
    assert found["method"] == "auto"
    vra = [row["vra"] for row in found["radii"]]
    assert [row["radius"] for row in found["radii"]] == [0.05, 0.1, 0.3]
    assert vra == sorted(vra, reverse=True)
    assert all(f"{share:.2%}" in result.stdout for share in vra)
    with Image.open(run / "vra.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_radii_default_to_multiples_of_epsilon(invoke, run, tmp_path):
    result = invoke("evaluate", run, "--split", "train", "--out", tmp_path / "curve.png")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "curve.json").read_text())
    assert [row["radius"] for row in found["radii"]] == pytest.approx([0.15, 0.3, 0.6])
    assert found["images"] == 1297
    assert not (run / "vra.png").exists()


def test_relaxed_shares_are_named_so(invoke, run):
    result = invoke("evaluate", run, "--top-k", 3, "--radii", "0.1,0.3")
    assert result.exit_code == 0, result.output
    found = json.loads((run / "relaxed-vra.json").read_text())
    trained = json.loads((run / "result.json").read_text())
    assert found["relaxation"] == 3
    assert found["relaxed_accuracy"] > trained["clean_accuracy"]
    assert found["relaxed_vra"] == found["radii"][1]["relaxed_vra"] >= trained["vra"]
    assert not {"vra", "clean_accuracy"} & found.keys()
    assert (run / "relaxed-vra.png").exists()
    assert not (run / "vra.png").exists()
    for text in ("relaxed, top-3", "relaxed accuracy", "relaxed VRA", f"{found['relaxed_vra']:.2%}"):
        assert text in result.stdout


def test_radii_in_bytes(invoke, run):
    result = invoke("evaluate", run, "--radii", "36/255,72/255")
    assert result.exit_code == 0, result.output
    found = json.loads((run / "vra.json").read_text())
    assert [row["radius"] for row in found["radii"]] == [36 / 255, 72 / 255]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--radii", "0.1,zero"), "'zero'"),
        (("--radii", "0.1,,0.2"), "''"),
        (("--radii", "0.1,-0.2"), "'-0.2'"),
        (("--radii", "0"), "'0'"),
        (("--radii", "nan"), "'nan'"),
        (("--radii", "36/255,1/0"), "'1/0'"),
        (("--out", "vra.pdf"), ".png"),
        (("--out", "."), ".png"),
        (("--method", "torsu"), "torsu"),
    ],
)
def test_bad_input(refused, run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused("evaluate", run, *arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert not (run / "vra.png").exists()


def test_a_run_that_is_not_finished(refused, run):
    (run / "result.json").unlink()
    assert "--resume" in refused("evaluate", run)
