from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest
import torch
from PIL import Image

from gloro_fast import bounds
from gloro_fast.data import to_float
from gloro_fast.errors import SoundnessError
from gloro_fast.evaluate.tightness import Tightness, tightness
from gloro_fast.evaluate.tightness_picture import draw_tightness
from gloro_fast.recipes.paper import PaperTightness

FEW = {"pairs": 4, "global_steps": 40, "local_steps": 10}


@pytest.fixture
def images(digits) -> torch.Tensor:
    return to_float(digits.test.images)


def too_small(method):
    honest = bounds.METHODS[method]

    def wrong(name, layer):
        bound = honest(name, layer)
        return dataclasses.replace(bound, value=bound.value / 10)

    return wrong


def test_ratios(net, images):
    found = tightness(copy.deepcopy(net).freeze("auto"), images, 0.3, **FEW)
    assert found.method == "auto"
    assert 0 < found.local_lower <= found.global_lower * 1.5
    assert found.global_ratio == found.global_lower / found.upper < 1
    assert found.to_dict()["local_ratio"] == found.local_lower / found.upper
    assert max(found.global_slopes) == found.global_lower
    assert sum(found.local_slopes) / 4 == pytest.approx(found.local_lower)


def test_a_lower_bound_above_a_rigorous_one_stops_everything(net, images, monkeypatch):
    monkeypatch.setitem(bounds.METHODS, "auto", too_small("auto"))
    with pytest.raises(SoundnessError, match="one of the two is wrong"):
        tightness(copy.deepcopy(net).freeze("auto"), images, 0.3, **FEW)


def test_above_an_estimate_it_warns(net, images, monkeypatch):
    monkeypatch.setitem(bounds.METHODS, "power", too_small("power"))
    with pytest.warns(UserWarning, match="the estimate is too low"):
        found = tightness(copy.deepcopy(net).freeze("power"), images, 0.3, **FEW)
    assert found.method == "power (estimate)"
    assert found.global_ratio > 1


def test_an_honest_estimate_is_no_cause_for_a_warning(net, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tightness(copy.deepcopy(net).freeze("power"), images, 0.3, **FEW)


@pytest.mark.parametrize("paper", [None, PaperTightness(0.83)])
@pytest.mark.parametrize("upper", [3.0, 0.0])
def test_the_picture(tmp_path, paper, upper):
    found = Tightness(upper, "auto", 0.8 * upper, 0.3 * upper, 0.3, (0.5, 0.8 * upper), (0.1, 0.3 * upper), 9, 9)
    draw_tightness(found, tmp_path / "t.png", paper=paper, title="digits", note="a note")
    with Image.open(tmp_path / "t.png") as picture:
        picture.verify()
