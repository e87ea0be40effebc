"""The trained nets that come with the package are those of their cards, and are worth what the cards say."""

import hashlib
import json

import pytest
import torch

from gloro_fast import data
from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.evaluate import evaluate
from gloro_fast.models import pretrained, trained_nets

SHA256 = {
    "digits": "bc8872b1d66bd8d6af19c41da5d44649fccd3d81ba757e27d21878a251f1be82",
    "mnist-2c2f": "54d3cd54e0bd2094e349a28d03135ae9d103967f0d5d65b28e9c533ce89fe163",
}


def card(name):
    return json.loads((trained_nets.FOLDER / name / "config.json").read_text())["results"]


@pytest.mark.parametrize("name", SHA256)
def test_the_files_are_those_that_were_checked(name):
    folder = trained_nets.FOLDER / name
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == SHA256[name]
    page = (folder / "README.md").read_text()
    assert SHA256[name] in page
    assert f"{card(name)['vra']:.2%}" in page
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2**20
    tensors = pretrained(name).state_dict()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_there_are_no_others():
    assert {folder.name for folder in trained_nets.FOLDER.iterdir()} == SHA256.keys()


def check_worth(name, split):
    net, said = pretrained(name), card(name)
    assert not net.training
    found = evaluate(net.freeze("tight"), split)
    assert (found.method, net.epsilon) == (said["method"], said["epsilon"]) == ("tight", 0.3)
    assert found.lipschitz == pytest.approx(said["lipschitz"], rel=1e-6)
    # Other processors add up in another order, which may move what is this near.
    near = int(((found.radius - 0.3).abs() < 1e-5).sum()) / len(split)
    top = found.logits.topk(2).values
    tied = int((top[:, 0] - top[:, 1] < 1e-4).sum()) / len(split)
    assert abs(found.vra(0.3) - said["vra"]) <= near + 1e-9
    assert abs(found.clean_accuracy - said["clean_accuracy"]) <= tied + 1e-9
    assert near + tied < 0.002


def test_the_digits_are_worth_what_their_card_says():
    pytest.importorskip("sklearn", reason="the digits are in scikit-learn: install gloro-fast[demo]")
    check_worth("digits", data.load("digits").test)


def test_mnist_is_worth_what_its_card_says(real_data):
    check_worth("mnist-2c2f", data.load("mnist", real_data / "mnist").test)


def test_an_unknown_name_lists_those_that_are_there():
    with pytest.raises(
        ConfigError, match=r"^no trained net 'imagenet' comes with the package; choose one of digits, mnist-2c2f$"
    ):
        pretrained("imagenet")
    with pytest.raises(ConfigError, match="did you mean 'mnist-2c2f'"):
        pretrained("mnist_2c2f")


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    for file in (trained_nets.FOLDER / "digits").iterdir():
        content = bytearray(file.read_bytes())
        if file.suffix == ".safetensors":
            content[-100] ^= 4
        (tmp_path / "digits" / file.name).write_bytes(content)
    monkeypatch.setattr(trained_nets, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="do not match their digest"):
        pretrained("digits")
