from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.data import to_float
from gloro_fast.errors import ConfigError
from gloro_fast.evaluate import pgd
from gloro_fast.evaluate.attack import predictions, unbroken
from gloro_fast.evaluate.auto_attack import auto_attack

pytestmark = pytest.mark.usefixtures("_toolbox")
FEW = {"steps": 10, "restarts": 1, "queries": 20}
EPSILON = 0.4


@pytest.fixture
def _toolbox() -> None:
    pytest.importorskip("art", reason="attacks need the Adversarial Robustness Toolbox (extra attack)")


def test_it_is_no_weaker_than_pgd_and_keeps_to_ball_and_pixels(net, digits):
    images, labels = to_float(digits.test.images[:150]), digits.test.labels[:150]
    found = auto_attack(net, images, labels, EPSILON, **FEW)
    left = predictions(net, found) == labels
    under_pgd = predictions(net, pgd(net, images, labels, EPSILON, steps=10, restarts=1)) == labels
    assert int(left.sum()) <= int(under_pgd.sum()) + 1
    assert int(left.sum()) < int((predictions(net, images) == labels).sum())
    assert float((found.double() - images.double()).flatten(1).norm(dim=1).max()) <= EPSILON
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(found[left], images[left])
    certificate = net.certify(images, EPSILON)
    assert bool(left[certificate.certified & (certificate.prediction == labels)].all())


def test_a_seed_repeats_it_and_nothing_else_is_touched(net, digits):
    images, labels = to_float(digits.test.images[:30]), digits.test.labels[:30]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (auto_attack(net, images, labels, EPSILON, seed=3, **FEW) for _ in range(2))
    assert torch.equal(first, again)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_two_classes():
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), 0.1, (1, 4, 4)).eval()
    images = torch.rand(20, 1, 4, 4)
    labels = predictions(net, images)
    found = auto_attack(net, images, labels, 2.0, **FEW)
    assert int((predictions(net, found) != labels).sum()) > 0


def test_it_tries_certificates_without_the_limit_of_pixels(net, digits):
    report = unbroken(copy.deepcopy(net), to_float(digits.test.images[:60]), EPSILON, attack=_quick)
    assert report
    assert int(report.certified.sum()) > 10


def _quick(*arguments, **settings):
    assert settings["pixels"] is None
    return auto_attack(*arguments, **settings, **FEW)


def test_bad_input(net, digits):
    with pytest.raises(ConfigError, match="queries is 0"):
        auto_attack(net, to_float(digits.test.images[:2]), digits.test.labels[:2], EPSILON, queries=0)
