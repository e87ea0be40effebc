"""The audit of a small net: silent about what certify wrote, and loud about every planted fault."""

import dataclasses
import math

import pytest
import torch
from certified import certificate_of, small_net, small_split

from gloro_fast import GloRoNet
from gloro_fast.data import Split, to_float

pytest.importorskip("scipy", reason="audit needs scipy: install gloro-fast[audit]")
from gloro_fast.audit import audit, bounds
from gloro_fast.audit.forward import evaluate
from gloro_fast.audit.layers import read_layers

PROOFS = {}


@pytest.fixture(scope="module")
def net():
    return small_net()


@pytest.fixture(autouse=True)
def _proofs_once(monkeypatch):
    """Most faults are elsewhere than in the bounds, and proofs take most of the time: each is done once."""

    def once(function):
        def found(matrix, *arguments):
            key = (function.__name__, matrix.toarray().tobytes(), *arguments)
            if key not in PROOFS:
                PROOFS[key] = function(matrix, *arguments)
            return PROOFS[key]

        return found

    monkeypatch.setattr(bounds, "proves", once(bounds.proves))
    monkeypatch.setattr(bounds, "_power", once(bounds._power))


@pytest.fixture(scope="module")
def certificate(net):
    return certificate_of(net)


def lines(certificate, net, split=None):
    return list(audit(certificate, net.module, split or small_split()))


@pytest.mark.parametrize("executed", [False, True])
def test_what_certify_wrote_holds(net, executed):
    assert lines(certificate_of(net, executed), net) == []


def test_a_dense_layer_with_a_rectifier_behind_it():
    net = small_net()
    net.module.append(torch.nn.ReLU())
    net.module.append(torch.nn.Flatten())
    net.unfreeze()
    certificate = certificate_of(net)
    assert lines(certificate, net) == []
    lower = dataclasses.replace(certificate, differences=[d * (1 - 1e-13) for d in certificate.differences])
    assert any("D[0, 1]" in line for line in lines(lower, net))
    # As if nothing stood behind it: the rows nearest to opposite have the same distance, others a smaller one.
    plain = dataclasses.replace(certificate, differences=certificate_of(small_net()).differences)
    assert plain.differences != certificate.differences
    assert any(line.startswith("D[") for line in lines(plain, net))


def test_margins_of_the_whole_net():
    net = GloRoNet(small_net().module, 0.01, (1, 5, 5), margins="whole").eval()
    certificate = certificate_of(net)
    assert len(certificate.layers) == 8
    assert lines(certificate, net) == []
    lower = dataclasses.replace(certificate, differences=[d * (1 - 1e-15) for d in certificate.differences])
    assert any("D[0, 1]" in line for line in lines(lower, net))


def test_an_estimate_does_not_hold(net):
    found = lines(certificate_of(net, method="power"), net)
    assert sum("is an estimate from below, no bound" in line for line in found) == 3


@pytest.mark.parametrize("layer", [0, 2, 5])
@pytest.mark.parametrize("bits", [1, 1 << 22, 1 << 31])
def test_a_flipped_bit_of_a_weight(certificate, layer, bits):
    net = small_net()
    net.module[layer].weight.data.view(torch.int32).view(-1)[3] ^= bits if bits < 1 << 31 else -(1 << 31)
    (line,) = lines(certificate, net)
    assert line.startswith("the weights are not those that were certified")


def test_a_flipped_bit_with_a_digest_to_match(net, certificate):
    # The digest of the changed weights put in: then the bounds and the logits must tell.
    changed = small_net()
    with torch.no_grad():
        changed.module[5].weight *= 1.01
    forged = dataclasses.replace(certificate, weights=certificate_of(changed).weights)
    found = lines(forged, changed)
    assert any("layer 5: the bound" in line for line in found)
    assert any("a logit is" in line for line in found)


@pytest.mark.parametrize("changed", ["image", "label"])
def test_other_data(net, certificate, changed):
    split = small_split()
    if changed == "image":
        split.images[3, 0, 2, 2] ^= 1
    else:
        split.labels[5] = (split.labels[5] + 1) % 3
    (line,) = lines(certificate, net, split)
    assert line.startswith("the images or labels are not those")


def test_fewer_images(net, certificate):
    split = small_split()
    assert lines(certificate, net, Split(split.images[:5], split.labels[:5]))


def scaled(certificate, layer, factor, field="value", with_product=True):
    """The file with a layer's bound scaled, and K, tightness and all that follows from them put right."""
    layers = list(certificate.layers)
    value = getattr(layers[layer], field) * factor
    layers[layer] = dataclasses.replace(layers[layer], **{field: value})
    if field == "value":
        layers[layer] = dataclasses.replace(layers[layer], tightness=value / layers[layer].power)
    lipschitz = certificate.lipschitz * factor if with_product and field == "value" else certificate.lipschitz
    return dataclasses.replace(certificate, layers=layers, lipschitz=lipschitz)


def test_a_lower_bound_slipped_in_as_a_bound(net, certificate):
    for layer in (0, 2, 5):
        record = certificate.layers[layer]
        found = lines(scaled(certificate, layer, 0.999 / record.tightness), net)
        assert any(line.startswith(f"layer {layer}: the bound") for line in found)
        # By so little that only a proof can tell.
        for factor in (0.999, 1 - 1e-6):
            tight = scaled(certificate, layer, exact_norm(net, layer) * factor / record.value)
            assert any(line.startswith(f"layer {layer}: the bound") for line in lines(tight, net))


def test_a_tighter_bound_that_is_one_is_proven(net, certificate):
    record = certificate.layers[0]
    found = lines(scaled(certificate, 0, exact_norm(net, 0) * (1 + 1e-9) / record.value), net)
    assert not any("bound" in line for line in found)


def exact_norm(net, layer):
    matrix = read_layers(net.module, (1, 5, 5))[layer].matrix
    return float(torch.linalg.matrix_norm(torch.from_numpy(matrix.toarray()), 2))


def test_a_lower_bound_on_absolute_weights(net, certificate):
    found = lines(scaled(certificate, 5, 0.99, field="absolute"), net)
    assert any("absolute weights" in line for line in found)


def edited(certificate, name, place, change):
    values = list(getattr(certificate, name))
    values[place] = change(values[place])
    return dataclasses.replace(certificate, **{name: values})


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("radius", lambda r: r * 1.01, "radius"),
        ("radius", lambda r: r * (1 + 1e-9), "radius"),
        ("radius", lambda r: r * 0.9, "radius"),
        ("radius", lambda r: -r, "radius"),
        ("radius", lambda r: math.inf, "radius"),
        ("radius", lambda r: math.nan, "radius"),
        ("real_radius", lambda r: r * (1 + 1e-13), "above the exact one"),
        ("real_radius", lambda r: r * (1 - 1e-9), "below the exact one"),
        ("margin", lambda m: math.nextafter(m, math.inf), "the margin"),
        ("prediction", lambda p: (p + 1) % 3, "the prediction is"),
        ("certified", lambda c: not c, "certified is"),
        ("labels", lambda y: (y + 1) % 3, "labels"),
        ("differences", lambda d: d * (1 - 1e-12), "below"),
        ("differences", lambda d: d * (1 + 1e-6), "above"),
    ],
)
def test_an_edited_entry(net, certificate, name, change, says):
    # The second of them, so that nothing hangs on the first.
    found = lines(edited(certificate, name, 1, change), net)
    assert any(says in line for line in found)


def test_edited_radii_of_a_certificate_for_real_arithmetic(net):
    certificate = certificate_of(net, executed=False)
    both = edited(
        edited(certificate, "radius", 1, lambda r: r * (1 + 1e-12)), "real_radius", 1, lambda r: r * (1 + 1e-12)
    )
    assert any("above the exact one" in line for line in lines(both, net))
    assert any("radius" in line for line in lines(edited(certificate, "radius", 1, lambda r: r * (1 - 1e-9)), net))


@pytest.mark.parametrize("factor", [1 - 1e-12, 1 + 1e-6])
def test_an_edited_product(net, certificate, factor):
    found = lines(dataclasses.replace(certificate, lipschitz=certificate.lipschitz * factor), net)
    assert any(line.startswith("K is") for line in found)


def test_an_edited_logit(net, certificate):
    logits = certificate.logits.clone()
    logits[4, certificate.prediction[4]] += 0.01
    found = lines(dataclasses.replace(certificate, logits=logits), net)
    assert any("image 4: a logit is" in line for line in found)


@pytest.mark.parametrize("name", ["clean_accuracy", "vra", "certified", "real_vra", "real_certified"])
def test_an_edited_summary(net, certificate, name):
    (line,) = lines(dataclasses.replace(certificate, summary={**certificate.summary, name: 0.123}), net)
    assert line.startswith(f"{name} is 0.123")


def test_other_claims(net, certificate):
    for change, says in (
        ({"epsilon": certificate.epsilon * 1000}, "certified is"),
        ({"kind": "exact"}, "is called 'exact'"),
        ({"executed": False}, "in real arithmetic"),
        ({"modules": certificate.modules[:-1]}, "modules"),
        ({"layers": certificate.layers[:-1]}, "the bounds are of layers"),
        ({"differences": certificate.differences[:-1]}, "differences of rows"),
    ):
        assert any(says in line for line in lines(dataclasses.replace(certificate, **change), net)), change
    layers = list(certificate.layers)
    for place, change in ((1, {"value": 0.99}), (0, {"tightness": 1.5}), (0, {"power": layers[0].power * 0.9})):
        wrong = [*layers[:place], dataclasses.replace(layers[place], **change), *layers[place + 1 :]]
        assert lines(dataclasses.replace(certificate, layers=wrong), net)


def test_many_of_a_kind_are_few_lines(net, certificate):
    doubled = dataclasses.replace(certificate, margin=[2 * margin for margin in certificate.margin])
    found = lines(doubled, net)
    assert len(found) == 4
    assert "9 more" in found[-1]


def test_errors_of_elements_contain_what_rounding_does(net):
    images = to_float(small_split().images)
    layers = read_layers(net.module, (1, 5, 5))
    columns = images.double().flatten(1).numpy().T
    found = evaluate(layers, columns, "float32")
    with torch.no_grad():
        program = net.module(images).double().numpy().T
    off = abs(program - found.value)
    assert (off <= found.error + found.program).all()
    assert (off > (found.error + found.program) / 10000).any()
    assert (found.error < 1e-6 * found.program).all()
    # With the norms of the layers, closer and still around it.
    norms = [1.0] * 7
    for place in (0, 2, 5):
        norms[place] = exact_norm(net, place) * (1 + 1e-9)
    closer = evaluate(layers, columns, "float32", norms)
    assert (off <= closer.error + closer.program).all()
    assert (closer.program <= found.program).all()
    assert (closer.program < 0.9 * found.program).any()
    assert (torch.linalg.vector_norm(torch.from_numpy(off), dim=0).numpy() <= closer.norm).all()


@pytest.mark.parametrize("holds", [None, False, True])
def test_a_matrix_too_large_for_a_proof_is_left_to_another(net, certificate, monkeypatch, holds):
    monkeypatch.setattr(bounds, "proves", lambda matrix, bound: None)
    asked = []

    def otherwise(record, layer, input_shape):
        asked.append((record.name, type(layer), input_shape))
        return holds

    found = list(audit(certificate, net.module, small_split(), None if holds is None else otherwise))
    affine = [
        layer
        for layer in read_layers(net.module, net.input_shape)[: len(certificate.layers)]
        if hasattr(layer, "matrix")
    ]
    if holds:
        assert found == []
    else:
        assert [line.split(": ")[0] for line in found] == [f"layer {layer.name}" for layer in affine]
        assert all("cannot be confirmed" in line for line in found)
    assert asked == ([] if holds is None else [(a.name, type(a.module), a.input_shape) for a in affine])
