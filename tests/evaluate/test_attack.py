from __future__ import annotations

import copy
import dataclasses
import sys

import numpy as np
import pytest
import torch

from gloro_fast import bounds
from gloro_fast.data import to_float
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.evaluate import pgd, unbroken

EPSILON = 0.3


@pytest.fixture
def _toolbox() -> None:
    pytest.importorskip("art", reason="attacks need the Adversarial Robustness Toolbox (extra attack)")


@pytest.fixture
def images(digits) -> torch.Tensor:
    return to_float(digits.test.images)


@pytest.fixture
def labels(digits) -> torch.Tensor:
    return digits.test.labels


def accuracy(net, images, labels) -> float:
    return float((net.module(images).argmax(dim=1) == labels).double().mean())


@pytest.mark.usefixtures("_toolbox")
def test_no_certified_point_is_broken(net, images):
    report = unbroken(net, images, EPSILON, restarts=2)
    assert report
    assert int(report.certified.sum()) > 200
    assert torch.equal(report.certified, net.certify(images, EPSILON).certified)
    assert report.method == "auto"


@pytest.mark.usefixtures("_toolbox")
def test_false_certificates_are_broken(net, images, monkeypatch):
    """The check itself: with K a tenth of what it is, the attack must find points that do not hold."""
    honest = bounds.METHODS["auto"]

    def too_small(name, layer):
        bound = honest(name, layer)
        return dataclasses.replace(bound, value=bound.value / 10)

    monkeypatch.setitem(bounds.METHODS, "auto", too_small)
    report = unbroken(copy.deepcopy(net).unfreeze(), images, 1.0, steps=20, restarts=1)
    assert not report
    assert int(report.broken.sum()) > 50
    assert not bool((report.broken & ~report.certified).any())


@pytest.mark.usefixtures("_toolbox")
def test_nothing_certified_is_nothing_broken(net, images):
    report = unbroken(net, images[:20], 50.0)
    assert report
    assert not bool(report.certified.any())


@pytest.mark.usefixtures("_toolbox")
@pytest.mark.parametrize(("epsilon", "pixels"), [(0.3, (0.0, 1.0)), (1.5, None), (1e-6, (0.0, 1.0))])
def test_perturbations_keep_to_the_ball_and_the_pixels(net, images, labels, epsilon, pixels):
    found = pgd(net, images, labels, epsilon, steps=10, restarts=1, pixels=pixels)
    norm = (found.double() - images.double()).flatten(1).norm(dim=1)
    assert float(norm.max()) <= epsilon
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    outside = bool(((found < 0) | (found > 1)).any())
    assert outside == (pixels is None)
    if epsilon > 0.1:
        assert float(norm.median()) > 0.9 * epsilon


@pytest.mark.usefixtures("_toolbox")
def test_it_beats_random_noise(net, images, labels):
    noise = torch.randn_like(images)
    noise *= EPSILON / noise.flatten(1).norm(dim=1)[:, None, None, None]
    attacked = accuracy(net, pgd(net, images, labels, EPSILON, steps=15, restarts=1), labels)
    assert attacked < accuracy(net, images + noise, labels) - 0.05
    assert attacked >= float(
        ((net.certify(images, EPSILON).certified) & (net(images).argmax(1) == labels)).double().mean()
    )


@pytest.mark.usefixtures("_toolbox")
def test_a_seed_repeats_it_and_nothing_else_is_touched(net, images, labels):
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (pgd(net, images[:50], labels[:50], EPSILON, steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    net.train()
    pgd(net, images[:2], labels[:2], EPSILON, steps=1)
    assert all(module.training for module in net.modules())
    net.eval()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"epsilon": 0.0}, ConfigError, "epsilon is 0"),
        ({"epsilon": float("nan")}, ConfigError, "epsilon is nan"),
        ({"steps": 0}, ConfigError, "steps is 0"),
        ({"restarts": 0}, ConfigError, "restarts is 0"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, DataError, "uint8"),
        ({"images": torch.zeros(2, 1, 9, 9)}, DataError, "9, 9"),
        ({"images": torch.zeros(0, 1, 8, 8), "labels": torch.zeros(0, dtype=torch.int64)}, DataError, "at least one"),
        ({"labels": torch.zeros(2)}, DataError, "float32"),
        ({"labels": torch.tensor([0, 10])}, DataError, "10 classes"),
    ],
)
def test_bad_input(net, change, error, says):
    arguments = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0, 1]), "epsilon": EPSILON, **change}
    with pytest.raises(error, match=says):
        pgd(net, **arguments)


def test_without_the_toolbox_it_says_what_to_install(net, images, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    with pytest.raises(ConfigError, match=r"pip install adversarial-robustness-toolbox"):
        pgd(net, images, labels, EPSILON)
