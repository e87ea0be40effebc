from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.data import to_float
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.evaluate.lower_bounds import global_lower_bounds, local_lower_bounds, margin_bounds, margin_slopes

EPSILON = 0.3


@pytest.fixture
def images(digits) -> torch.Tensor:
    return to_float(digits.test.images)


@pytest.fixture
def linear() -> GloRoNet:
    """A linear net of two classes: its one margin has the slope ||w_0 - w_1|| along w_0 - w_1, and none is steeper."""
    return GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), EPSILON, (1, 8, 8)).freeze("auto")


def test_a_linear_net_gives_its_constant_and_then_nothing_moves(linear, images):
    rows = linear.module[1].weight.detach().double()
    norm = float((rows[0] - rows[1]).norm())
    found = global_lower_bounds(linear, images, pairs=3, steps=20_000)
    assert bool((found.slopes <= norm).all())
    assert bool((found.slopes > 0.999 * norm).all())
    assert found.steps < 5_000
    assert bool((found.margins <= margin_bounds(linear)).all())


def slopes_of(net, pair):
    return margin_slopes(copy.deepcopy(net.module).double(), float(margin_bounds(net).max()), pair)


def test_no_margin_is_steeper_than_its_bound(net, images):
    net.freeze("auto")
    upper = margin_bounds(net)
    anywhere = global_lower_bounds(net, images, pairs=8, steps=300)
    nearby = local_lower_bounds(net, images, EPSILON, points=8, steps=150)
    for found in (anywhere, nearby):
        assert bool((found.margins <= upper).all())
        assert found.slopes.shape == (8,)
        assert float(found.slopes.max()) <= float(found.margins.max())
    # Optimization must be worth it: random pairs of images are much flatter.
    chance = torch.stack([slopes_of(net, images[[place, place + 1]]).max() for place in range(8)])
    assert float(anywhere.slopes.mean()) > 1.5 * float(chance.mean())
    assert float(anywhere.slopes.max()) > 0.5 * float(upper.max())
    net.unfreeze()


def test_local_pairs_stay_in_their_balls(net, images):
    # One image and its double: every ball is around the same centre.
    same = images[:1].expand(2, -1, -1, -1)
    same = torch.cat([same, images[1:2]])
    found = local_lower_bounds(net, same[[0, 0]], 0.05, points=2, steps=20)
    assert float((found.pairs - images[0]).flatten(2).norm(dim=2).max()) <= 0.05 * (1 + 1e-5)


def test_a_seed_repeats_it_and_the_net_is_left_alone(net, images):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, again, other = (global_lower_bounds(net, images, pairs=3, steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.slopes, again.slopes)
    assert not torch.equal(first.slopes, other.slopes)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_equal_points_have_no_slope(net, images):
    assert not bool(slopes_of(net, images[[0, 0]]).any())
    # A pair an ulp apart: rounding is all there is, and all of it is allowed for.
    nudged = images[[0, 0]].double()
    nudged[1] = torch.nextafter(nudged[1], torch.full_like(nudged[1], math.inf))
    assert bool((slopes_of(net, nudged) <= margin_bounds(net)).all())


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"steps": 0}, ConfigError, "steps is 0"),
        ({"points": 0}, ConfigError, "points is 0"),
        ({"epsilon": 0.0}, ConfigError, "epsilon is 0"),
        ({"epsilon": math.nan}, ConfigError, "epsilon is nan"),
        ({"images": torch.zeros(1, 1, 8, 8)}, DataError, "at least two"),
        ({"images": torch.zeros(3, 1, 9, 9)}, DataError, "9, 9"),
        ({"images": torch.zeros(3, 1, 8, 8, dtype=torch.uint8)}, DataError, "uint8"),
    ],
)
def test_bad_input(net, arguments, error, says):
    with pytest.raises(error, match=says):
        local_lower_bounds(net, **{"images": torch.zeros(3, 1, 8, 8), "epsilon": EPSILON, **arguments})
