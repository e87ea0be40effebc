from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open

from gloro_fast import data
from gloro_fast.files import json_file, tensor_file
from gloro_fast.files.certificate_record import FORMAT, FORMAT_VERSION

pytest.importorskip("scipy", reason="audit needs scipy: install gloro-fast[audit]")


@pytest.fixture
def few(tmp_path):
    """Seven digits in a file."""
    test = data.load("digits").test
    archive = tmp_path / "few.npz"
    images, labels = test.images[:7, 0].numpy(), test.labels[:7].numpy()
    names = np.array(list("0123456789"))
    np.savez(archive, x_train=images, y_train=labels, x_test=images, y_test=labels, class_names=names)
    return archive


@pytest.fixture
def file(invoke, run, few, tmp_path):
    """The certificate of these."""
    path = tmp_path / "certificate.json"
    arguments = ["--data", few, "--executed", "--certificate", path]
    result = invoke("certify", run, *arguments)
    assert result.exit_code == 0, result.output
    assert str(path) in result.stdout
    return path


def test_a_certificate_that_holds(invoke, run, few, file):
    result = invoke("audit", file, "--model", run / "model.safetensors", "--data", few)
    assert result.exit_code == 0, result.output
    verified, stated = result.stdout.split("stated by the file, not verified")
    assert "holds: verified" in " ".join(verified.split())  # a long path breaks the line
    assert "every layer proven" in verified
    assert "7, the test split of few" in verified
    assert "auto" not in verified
    assert "auto (layers: " in stated
    assert result.stderr == ""


def test_what_a_forged_file_states_is_not_called_verified(invoke, run, few, file):
    change(file, lambda document: document.update(data="[bold]mnist", method="tight"))
    result = invoke("audit", file, "--model", run, "--data", few)
    assert result.exit_code == 0, result.output
    verified, stated = result.stdout.split("stated by the file, not verified")
    assert "mnist" not in verified
    assert "[bold]mnist" in stated
    assert "tight" in stated


@pytest.fixture
def fails(invoke, run, few, file):
    """Audit and give the lines on stderr."""

    def audit(*arguments):
        result = invoke("audit", file, "--model", run, *(arguments or ("--data", few)))
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        *lines, last = result.stderr.splitlines()
        assert last == f"{file} does not hold: {len(lines)} differences"
        assert all(line.startswith("wrong: ") for line in lines)
        return lines

    return audit


def change(file, edit):
    """Edit the file and give it a checksum to match."""
    document = json_file.read(file, FORMAT, FORMAT_VERSION)
    edit(document)
    json_file.write(file, FORMAT, FORMAT_VERSION, document)


def test_an_edited_radius_and_a_bound_scaled_down(fails, file):
    def edit(document):
        document["radius"][0] *= 1.1
        first = document["layers"][0]
        first["value"] *= 0.999
        first["tightness"] = first["value"] / first["power"]
        document["lipschitz"] *= 0.999

    change(file, edit)
    found = fails()
    assert any("layer 0: the bound" in line for line in found)
    assert any("image 0: radius" in line for line in found)


def test_a_flipped_bit_of_a_weight(fails, run):
    model = run / "model.safetensors"
    tensors, document = tensor_file.read(model, "model")
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name].view(torch.int32).view(-1)[7] ^= 1
    tensor_file.write(model, "model", tensors, document)
    with safe_open(model, framework="pt") as opened:
        assert name in opened.keys()  # noqa: SIM118 (no mapping)
    (line,) = fails()
    assert "the weights are not those that were certified" in line


def test_other_data(fails):
    (line,) = fails("--data", "digits")
    assert "the images or labels are not those" in line


def test_an_estimate(invoke, run, few, tmp_path):
    path = tmp_path / "estimate.json"
    assert invoke("certify", run, "--data", few, "--method", "power", "--certificate", path).exit_code == 0
    result = invoke("audit", path, "--model", run, "--data", few)
    assert result.exit_code == 1
    assert "is an estimate from below, no bound" in result.stderr


def test_truncated_and_edited_files_are_one_line(refused, run, few, file):
    whole = file.read_text()
    for text, says in (
        (whole[: len(whole) // 2], "truncated or damaged"),
        (whole.replace('"prediction": [', '"prediction": [ '), None),
        (whole.replace('"epsilon": 0.3', '"epsilon": 0.1'), "edited or damaged"),
        ("{}", "no gloro_fast certificate"),
    ):
        file.write_text(text)
        if says is not None:
            assert says in refused("audit", file, "--model", run, "--data", few)


def test_bad_input(refused, run, few, file, tmp_path):
    assert "no file" in refused("audit", tmp_path / "none.json", "--model", run)
    assert "no run folder" in refused("audit", file, "--model", tmp_path / "none")
    assert "--certificate is" in refused("certify", run, "--certificate", tmp_path / "c.csv")
