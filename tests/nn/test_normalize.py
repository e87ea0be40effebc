"""Input normalization inside the net: epsilon stays in units of the pixels."""

import copy
import math

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError
from gloro_fast.nn import MinMax, Normalize, Scale


def test_it_normalizes_channel_by_channel():
    x = torch.rand(2, 3, 4, 4)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Normalize(mean, std)(x), expected)
    torch.testing.assert_close(Normalize(0.1, 0.5)(x), (x - 0.1) / 0.5)


@pytest.mark.filterwarnings("ignore:images")  # Normalized pixels leave [0, 1].
def test_a_certificate_is_in_units_of_the_pixels():
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), MinMax(), nn.Linear(8, 3))
    x = torch.rand(20, 3, 4, 4)
    raw = GloRoNet(nn.Sequential(Normalize(0.5, 0.25), *copy.deepcopy(body)), 0.1, (3, 4, 4)).eval()
    apart = GloRoNet(body, 0.1, (3, 4, 4)).eval()
    assert raw.lipschitz == pytest.approx(4 * apart.lipschitz)
    torch.testing.assert_close(raw.certify(x).radius, apart.certify(Normalize(0.5, 0.25)(x)).radius / 4)


def test_scaled_logits_have_the_same_radius():
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    x = torch.rand(20, 3, 4, 4)
    plain = GloRoNet(nn.Sequential(*copy.deepcopy(body)), 0.1, (3, 4, 4)).eval()
    scaled = GloRoNet(nn.Sequential(Scale(-0.5), Scale(-2.0), *body), 0.1, (3, 4, 4)).eval()
    torch.testing.assert_close(scaled.certify(x).radius, plain.certify(x).radius, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("mean", "std", "match"),
    [
        ([0.5, 0.5], [1.0], "mean has 2 numbers and std 1"),
        (0.5, 0.0, "std above 0"),
        (math.nan, 1.0, "all must be finite"),
        ([], [], "mean has 0"),
    ],
)
def test_numbers_that_cannot_be(mean, std, match):
    with pytest.raises(ConfigError, match=match):
        Normalize(mean, std)


def test_a_factor_must_be_finite():
    with pytest.raises(ConfigError, match="factor is inf"):
        Scale(math.inf)
