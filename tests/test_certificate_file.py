from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from certified import certificate_of, small_net, small_split

from gloro_fast.bounds import head_difference_bounds
from gloro_fast.certificate_file import CertificateFile
from gloro_fast.data import to_float
from gloro_fast.errors import CertificateError
from gloro_fast.files import json_file
from gloro_fast.files.certificate_record import FORMAT, FORMAT_VERSION, weights_digest


@pytest.fixture(scope="module")
def certificate():
    return certificate_of(small_net())


@pytest.mark.parametrize("executed", [False, True])
def test_it_reads_back_to_the_last_bit(tmp_path, executed):
    written = certificate_of(small_net(), executed)
    written.write(tmp_path / "c.json")
    read = CertificateFile.read(tmp_path / "c.json")
    assert torch.equal(written.logits, read.logits)
    assert written.logits.dtype == read.logits.dtype
    nothing = {"logits": torch.zeros(0)}
    assert dataclasses.replace(written, **nothing).__dict__.keys() == read.__dict__.keys()
    for field in dataclasses.fields(read):
        if field.name != "logits":
            assert getattr(written, field.name) == getattr(read, field.name)


def test_it_says_what_certify_says(certificate):
    net, split = small_net(), small_split()
    expected = net.freeze("torus").certify(to_float(split.images), 0.01, executed=True)
    assert certificate.weights == weights_digest(net.module)
    assert (certificate.method, certificate.kind) == ("torus", "upper bound")
    assert certificate.lipschitz == net.lipschitz
    assert certificate.prediction == expected.prediction.tolist()
    assert certificate.radius == pytest.approx(expected.radius.tolist(), rel=1e-4)
    assert certificate.certified == [radius > 0.01 for radius in certificate.radius]
    bounds = head_difference_bounds(net.module[-1].weight)
    assert certificate.differences == [bounds[0, 1].item(), bounds[0, 2].item(), bounds[1, 2].item()]
    top = certificate.logits.double().sort(descending=True).values
    assert certificate.margin == (top[:, 0] - top[:, 1]).tolist()
    right = [a == b for a, b in zip(certificate.prediction, certificate.labels, strict=True)]
    assert certificate.summary["clean_accuracy"] == sum(right) / len(right)
    sure = [a and b for a, b in zip(right, certificate.certified, strict=True)]
    assert certificate.summary["vra"] == sum(sure) / len(sure)


def test_every_layer_has_its_bound_its_tightness_and_its_absolute_norm(certificate):
    assert [layer.name for layer in certificate.layers] == list("0123456")
    product = math.prod(layer.value for layer in certificate.layers)
    assert product <= certificate.lipschitz <= product * (1 + 1e-12)
    for layer in certificate.layers:
        if layer.name in "025":
            assert (layer.method, layer.kind) == ("torus", "upper bound")
            assert 1 <= layer.tightness < 2
            assert layer.tightness == layer.value / layer.power
            assert layer.absolute >= layer.power
        else:
            assert (layer.value, layer.method, layer.kind, layer.power) == (1.0, "rule", "exact", None)


def test_an_estimate_is_called_one():
    certificate = certificate_of(small_net(), executed=False, method="power")
    assert certificate.kind == "estimate"
    assert {layer.kind for layer in certificate.layers} == {"exact", "estimate"}
    assert all(layer.absolute is None for layer in certificate.layers)


def test_one_bit_of_a_weight_changes_the_digest():
    net = small_net()
    before = weights_digest(net.module)
    assert before == weights_digest(small_net().module)
    net.module[2].bias.data.view(torch.int32)[1] ^= 1
    assert weights_digest(net.module) != before


def test_a_person_can_read_it(tmp_path, certificate):
    certificate.write(tmp_path / "c.json")
    lines = (tmp_path / "c.json").read_text().splitlines()
    assert sum('"name": "0"' in line for line in lines) == 1
    assert len(lines) < 60


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("radius"),
        lambda document: document["radius"].pop(),
        lambda document: document["layers"][0].pop("value"),
        lambda document: document["logits"].update(dtype="int8"),
        lambda document: document["logits"].update(shape=[3, 4]),
        lambda document: document["logits"].update(base64="!!!!"),
        lambda document: document["differences"].append(1.0),
        lambda document: document.update(differences_sha256="0" * 64),
        lambda document: document.update(layers=None),
    ],
)
def test_a_damaged_file_with_a_new_checksum_is_one_line(tmp_path, certificate, change):
    path = tmp_path / "c.json"
    certificate.write(path)
    document = json_file.read(path, FORMAT, FORMAT_VERSION)
    change(document)
    json_file.write(path, FORMAT, FORMAT_VERSION, document)
    with pytest.raises(CertificateError, match="is damaged"):
        CertificateFile.read(path)


def test_a_radius_without_limit_is_written_as_a_word(tmp_path, certificate):
    endless = dataclasses.replace(certificate, radius=[math.inf] * 12)
    endless.write(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["radius"][0] == "inf"
    assert CertificateFile.read(tmp_path / "c.json").radius == [math.inf] * 12
