from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.evaluate.smoothing import ABSTAIN, smooth

NOISE = 0.5


@pytest.fixture
def _scipy() -> None:
    pytest.importorskip("scipy", reason="intervals come from SciPy (extra smoothing)")


@pytest.fixture
def halfspaces() -> GloRoNet:
    """Two classes divided by the plane where the first pixel is 0."""
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
        linear.bias.zero_()
    return GloRoNet(nn.Sequential(nn.Flatten(), linear), 0.3, (1, 2, 2)).eval()


def at(*distances: float) -> torch.Tensor:
    images = torch.zeros(len(distances), 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor(distances)
    return images


@pytest.mark.usefixtures("_scipy")
def test_the_radius_of_a_halfspace_is_found_and_never_exceeded(halfspaces):
    """There the smoothed classifier is f itself: the true radius is the distance from the plane."""
    distances = [0.2, -0.5, 0.8, -1.0]
    labels = torch.tensor([0, 1, 0, 1])
    found = smooth(halfspaces, at(*distances), labels, NOISE, samples=4000)
    true = torch.tensor(distances).abs()
    assert torch.equal(found.prediction, labels)
    assert bool((found.radius <= true).all())
    assert bool((found.radius > 0.75 * true).all())
    assert (found.vra(0.3), found.vra(5.0), found.clean_accuracy) == (0.75, 0.0, 1.0)
    assert found.seconds_per_image > 0


@pytest.mark.usefixtures("_scipy")
def test_it_abstains_on_the_plane(halfspaces):
    found = smooth(halfspaces, at(0.0), torch.tensor([0]), NOISE, samples=1000)
    assert found.prediction.tolist() == found.certified_class.tolist() == [ABSTAIN]
    assert (found.radius.tolist(), found.abstained, found.vra(0.0)) == ([0.0], 1.0, 0.0)


@pytest.mark.usefixtures("_scipy")
def test_the_limit_is_the_exact_one():
    """All n copies agree: the limit is alpha^(1/n), by hand."""
    sure = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 0.3, (1, 2, 2)).eval()
    with torch.no_grad():
        sure.module[1].weight.zero_()
        sure.module[1].bias.copy_(torch.tensor([1.0, 0.0]))
    found = smooth(sure, at(0.5), torch.tensor([0]), NOISE, samples=700, alpha=0.01)
    limit = torch.tensor(0.01 ** (1 / 700), dtype=torch.float64)
    assert float(found.radius[0]) == pytest.approx(NOISE * float(torch.special.ndtri(limit)), rel=1e-9)


@pytest.mark.usefixtures("_scipy")
def test_a_seed_repeats_it(halfspaces):
    radii = [
        smooth(halfspaces, at(0.3), torch.tensor([0]), NOISE, samples=500, batch_size=64, seed=seed).radius.item()
        for seed in (1, 1, 2)
    ]
    assert radii[0] == radii[1] != radii[2]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"noise": 0.0}, ConfigError, "noise is 0"),
        ({"alpha": 1.0}, ConfigError, "alpha is 1"),
        ({"samples": 0}, ConfigError, "samples is 0"),
        ({"images": torch.zeros(1, 1, 3, 3)}, DataError, "3, 3"),
    ],
)
def test_bad_input(halfspaces, arguments, error, says):
    with pytest.raises(error, match=says):
        smooth(halfspaces, **{"images": at(1.0), "labels": torch.tensor([0]), "noise": NOISE, **arguments})


def test_without_scipy_it_says_what_to_install(halfspaces, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ConfigError, match=r"pip install scipy"):
        smooth(halfspaces, at(1.0), torch.tensor([0]), NOISE)
