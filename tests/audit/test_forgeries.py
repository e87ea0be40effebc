"""Certificates forged by someone who puts the checksum right: each is refused, or what was forged is called stated."""

from __future__ import annotations

import base64
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from certified import certificate_of, small_net, small_split

from gloro_fast.errors import CertificateError
from gloro_fast.files import json_file
from gloro_fast.files.certificate_record import FORMAT, FORMAT_VERSION, CertificateRecord, differences_digest
from gloro_fast.ops.certify import certified_radius

pytest.importorskip("scipy", reason="audit needs scipy: install gloro-fast[audit]")
from gloro_fast.audit import RealRadii, audit, stated

Document = dict[str, Any]


@pytest.fixture(scope="module")
def net():
    return small_net()


@pytest.fixture(scope="module")
def written(net, tmp_path_factory):
    """The file of an honest executed certificate."""
    path = tmp_path_factory.mktemp("written") / "c.json"
    certificate_of(net).write(path)
    return path


def set_to(name: str, value: Any):
    """Set an entry, given by a path such as layers.0.value."""

    def edit(document: Document) -> None:
        *places, last = (int(part) if part.isdigit() else part for part in name.split("."))
        target: Any = document
        for place in places:
            target = target[place]
        target[last] = value(target[last]) if callable(value) else value

    return edit


def removed(name: str):
    return lambda document: document.pop(name)


def both(*edits):
    def edit(document: Document) -> None:
        for one in edits:
            one(document)

    return edit


def scaled_bound(document: Document) -> None:
    """A layer's bound below its norm, with all that is computed from it put right."""
    layer = document["layers"][0]
    factor = 0.999 / layer["tightness"]
    layer["value"] *= factor
    layer["tightness"] = layer["value"] / layer["power"]
    document["lipschitz"] *= factor


def scaled_differences(document: Document) -> None:
    document["differences"] = [0.999 * entry for entry in document["differences"]]
    document["differences_sha256"] = differences_digest(document["differences"])


def higher_logits(document: Document) -> None:
    """Logits twice as large, and the margins and radii that follow."""
    logits = 2 * np.frombuffer(base64.b64decode(document["logits"]["base64"]), "<f4")
    document["logits"]["base64"] = base64.b64encode(logits.tobytes()).decode()
    for name in ("margin", "radius", "real_radius"):
        document[name] = [2 * value for value in document[name]]


def estimate(document: Document) -> None:
    """Say that a bound was found by power iteration."""
    document["layers"][0] |= {"kind": "estimate", "method": "power"}
    document["kind"] = "estimate"


FORGERIES = [
    ("weights", set_to("weights", "0" * 64), "the weights are not those"),
    ("data_digest", set_to("data_digest", "f" * 64), "the images or labels are not those"),
    ("modules", set_to("modules.0.1", "torch.nn.Identity"), "the modules of the classifier are not those"),
    ("a module less", set_to("modules", lambda modules: modules[1:]), "the modules of the classifier are not those"),
    ("input_shape", set_to("input_shape", [1, 25, 1]), "images have shape"),
    ("labels", set_to("labels.0", lambda label: (label + 1) % 3), "labels"),
    ("epsilon", set_to("epsilon", 10.0), "certified is"),
    ("epsilon below 0", set_to("epsilon", -1.0), "epsilon is -1.0; it must be a finite number > 0"),
    ("epsilon 0", set_to("epsilon", 0.0), "epsilon is 0.0"),
    ("epsilon endless", set_to("epsilon", math.inf), "epsilon is inf"),
    ("part", set_to("part", "validation"), "part is 'validation'; it must be 'test' or 'train'"),
    ("kind", set_to("kind", "exact"), "is called 'exact'"),
    ("kind of a layer", set_to("layers.0.kind", "exact"), "layer 0: .* is called exact"),
    ("kind unknown", set_to("kind", "proof"), "kind is 'proof'"),
    ("estimate", estimate, "is an estimate from below, no bound"),
    ("executed", set_to("executed", False), "in real arithmetic"),
    ("bound of a layer", scaled_bound, "layer 0: the bound .* is not proven"),
    ("absolute", set_to("layers.5.absolute", lambda value: 0.5 * value), "on its absolute weights is not proven"),
    ("power", set_to("layers.0.power", lambda value: 0.5 * value), "power iteration gives"),
    ("tightness", set_to("layers.0.tightness", 1.0), "tightness 1.0 is not"),
    ("constant of MinMax", set_to("layers.1.value", 0.5), "layer 1 has more than its constant"),
    ("power of MinMax", set_to("layers.1.power", 1.0), "layer 1 has more than its constant"),
    ("method of MinMax", set_to("layers.1.method", "proof"), "layer 1 has more than its constant"),
    ("absolute of MinMax", set_to("layers.1.absolute", 1.0), "layer 1 has more than its constant"),
    ("name of a layer", set_to("layers.0.name", "first"), "the bounds are of layers"),
    ("a layer less", set_to("layers", lambda layers: layers[:-1]), "the bounds are of layers"),
    ("lipschitz", set_to("lipschitz", lambda value: 0.999 * value), "below the product"),
    ("differences", scaled_differences, r"D\[0, 1\] is"),
    ("digest of differences", set_to("differences_sha256", "0" * 64), "differences_sha256 is not that"),
    ("prediction", set_to("prediction.3", lambda label: (label + 1) % 3), "the prediction is"),
    ("margin", set_to("margin.3", lambda value: 1.001 * value), "the margin is"),
    ("radius", set_to("radius.3", lambda value: 1.001 * value), "radius"),
    ("radius endless", set_to("radius.3", math.inf), "radius"),
    ("real_radius", set_to("real_radius.3", lambda value: 1.001 * value), "above the exact one"),
    ("certified", set_to("certified.3", lambda value: not value), "certified is"),
    ("logits", higher_logits, "more than rounding explains"),
    ("vra", set_to("summary.vra", 1.0), "vra is 1.0 in the summary"),
    ("clean_accuracy", set_to("summary.clean_accuracy", 1.0), "clean_accuracy is 1.0 in the summary"),
    ("another share", set_to("summary.verified", 1.0), "summary has an entry 'verified'"),
    ("another entry", set_to("proven_by", "the author"), "the file has an entry 'proven_by'"),
    ("another entry of a layer", set_to("layers.0.proven", True), r"layers\[0\] has an entry 'proven'"),
    ("another version", set_to("written_by.auditor", "9"), "written_by has an entry 'auditor'"),
    ("a missing entry", removed("executed"), "the file has no entry 'executed'"),
    ("label without a class", set_to("labels.0", 3), r"labels\[0\] is 3; there are 3 classes"),
    ("control characters", set_to("data", "x\x1b[2Jholds"), "data is .*; it must be printable text"),
    ("a line of its own", set_to("method", "auto\nverified"), "method is .*; it must be printable text"),
]
STATED = [
    ("data", set_to("data", "mnist"), "mnist"),
    ("method", set_to("method", "tight"), "tight"),
    ("method of a layer", set_to("layers.0.method", "cholesky"), "cholesky"),
    ("written by", set_to("written_by.torch", "9.9"), "torch 9.9"),
]
ILL_TYPED = [
    ("epsilon", "0.3"),
    ("epsilon", None),
    ("epsilon", False),
    ("epsilon", [0.3]),
    ("epsilon", math.nan),
    ("epsilon", 10**400),
    ("executed", 1),
    ("executed", "yes"),
    ("prediction.0", 1.0),
    ("prediction.0", True),
    ("prediction.0", -1),
    ("labels.0", "2"),
    ("radius.0", None),
    ("radius.0", math.nan),
    ("radius.0", True),
    ("radius", {}),
    ("margin.0", "wide"),
    ("certified.0", 1),
    ("lipschitz", -1.0),
    ("differences.0", "1"),
    ("layers", {}),
    ("layers.0", []),
    ("layers.0.value", "2"),
    ("layers.0.power", []),
    ("layers.0.kind", ["exact"]),
    ("logits", []),
    ("logits.shape", []),
    ("logits.shape", [12, True]),
    ("logits.dtype", {}),
    ("logits.base64", 7),
    ("summary", None),
    ("summary.vra", "1"),
    ("summary.vra", 1.5),
    ("written_by", "gloro_fast"),
    ("written_by.torch", 2.13),
    ("weights", 0),
    ("weights", "z" * 64),
    ("modules.0", "Sequential"),
    ("modules.0.0", None),
    ("input_shape.0", True),
    ("data", 5),
    ("part", None),
    ("method", ["auto"]),
]


def forged(written, tmp_path, edit):
    document = json_file.read(written, FORMAT, FORMAT_VERSION)
    edit(document)
    path = tmp_path / "forged.json"
    json_file.write(path, FORMAT, FORMAT_VERSION, document)
    return path


def found_wrong(path, net) -> list[str]:
    """What is said of a file, by reading or by auditing it."""
    try:
        certificate = CertificateRecord.read(path)
    except CertificateError as error:
        return [str(error)]
    return list(audit(certificate, net.module, small_split()))


@pytest.mark.parametrize(("edit", "says"), [pytest.param(*rest, id=name) for name, *rest in FORGERIES])
def test_a_forgery_is_refused(net, written, tmp_path, edit, says):
    lines = found_wrong(forged(written, tmp_path, edit), net)
    assert lines
    assert all("\n" not in line and line.isprintable() for line in lines)
    assert any(re.search(says, line) for line in lines)


@pytest.mark.parametrize(("edit", "shown"), [pytest.param(*rest, id=name) for name, *rest in STATED])
def test_what_nothing_can_check_is_called_stated(net, written, tmp_path, edit, shown):
    path = forged(written, tmp_path, edit)
    assert found_wrong(path, net) == []
    assert any(shown in value for _, value in stated(CertificateRecord.read(path)))
    assert not any(shown in value for _, value in stated(CertificateRecord.read(written)))


@pytest.mark.parametrize(("name", "value"), ILL_TYPED, ids=lambda value: repr(value)[:20])
def test_an_ill_typed_entry_is_one_line(written, tmp_path, name, value):
    with pytest.raises(CertificateError, match="is damaged: ") as raised:
        CertificateRecord.read(forged(written, tmp_path, set_to(name, value)))
    line = str(raised.value)
    assert line.isprintable()
    assert name.split(".")[0] in line
    assert len(line) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: text.replace('"epsilon"', '"epsilon": 0.1, "epsilon"'), "there twice: 'epsilon'"),
        (lambda text: text.replace('"format_version": 1', '"format_version": true'), "format version True"),
        (lambda text: "\x00", "truncated or damaged"),
        (lambda text: "null", "no gloro_fast certificate"),
    ],
)
def test_text_that_is_no_document_is_one_line(written, tmp_path, edit, says):
    path = tmp_path / "c.json"
    path.write_text(edit(written.read_text()))
    with pytest.raises(CertificateError, match=says):
        CertificateRecord.read(path)


@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_deep_lists_are_one_line(tmp_path, depth):
    path = tmp_path / "c.json"
    entries = f'"format": "{FORMAT}", "format_version": {FORMAT_VERSION}, "margin": {"[" * depth + "]" * depth}'
    path.write_text(f"{{{entries}}}")
    with pytest.raises(CertificateError, match="damaged"):
        CertificateRecord.read(path)


def test_a_radius_lifted_over_epsilon_within_rounding(net, tmp_path):
    """Logits within their tolerance may hold up no certificate that the net itself has not."""
    path = tmp_path / "c.json"
    certificate_of(net, executed=False).write(path)
    document = json_file.read(path, FORMAT, FORMAT_VERSION)
    logits = np.frombuffer(base64.b64decode(document["logits"]["base64"]), "<f4").reshape(12, 3).copy()
    logits[4, document["prediction"][4]] += np.float32(1e-6)
    differences = torch.zeros(3, 3, dtype=torch.float64)
    differences[0, 1], differences[0, 2], differences[1, 2] = document["differences"]
    _, radius = certified_radius(torch.from_numpy(logits), differences + differences.T, document["lipschitz"])
    lifted = radius[4].item()
    top = np.sort(logits[4].astype(np.float64))[::-1]
    was = document["radius"][4]
    document["logits"]["base64"] = base64.b64encode(logits.tobytes()).decode()
    document["margin"][4] = top[0] - top[1]
    document["radius"][4] = document["real_radius"][4] = lifted
    # With an epsilon between the radius that the net has and the lifted one, and everything that follows.
    document["epsilon"] = (was + lifted) / 2
    document["certified"] = [value > document["epsilon"] for value in document["radius"]]
    right = [a == b for a, b in zip(document["prediction"], document["labels"], strict=True)]
    vra = sum(a and b for a, b in zip(right, document["certified"], strict=True)) / 12
    certified = sum(document["certified"]) / 12
    document["summary"] |= {"certified": certified, "real_certified": certified, "vra": vra, "real_vra": vra}
    json_file.write(path, FORMAT, FORMAT_VERSION, document)
    (line,) = found_wrong(path, net)
    assert "image 4: certified by the rounding of its logits alone" in line


def test_how_far_radii_are_above_those_of_the_net_is_found(net):
    found = RealRadii()
    assert list(audit(certificate_of(net), net.module, small_split(), found=found)) == []
    assert 0 < found.above < 1e-6
