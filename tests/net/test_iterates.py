"""Checkpoints: weights are loaded strictly, iterates as far as they fit."""

import copy
import io

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.losses import CrossEntropyLoss


def net(size=8, seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(),
        nn.Linear(6, 3),
    )  # fmt: skip
    return GloRoNet(module, 0.1, (1, size, size))


def batch(size=8):
    return torch.rand(5, 1, size, size), torch.tensor([0, 1, 2, 0, 1])


def trained(size=8):
    model = net(size)
    model(*batch(size), CrossEntropyLoss())
    return model


def weights(model):
    return {name: value for name, value in model.state_dict().items() if not name.startswith("iterates.")}


def assert_has_weights_of(model, other):
    assert all(torch.equal(a, b) for a, b in zip(weights(model).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("assign", [False, True])
def test_all_that_fit_are_taken(assign):
    saved, model = trained(), net(seed=1)
    assert model.load_state_dict(copy.deepcopy(saved.state_dict()), assign=assign) == ([], [])
    assert_has_weights_of(model, saved)
    pairs = zip(model.iterates.vectors(), saved.iterates.vectors(), strict=True)
    assert all(torch.equal(mine, its) for mine, its in pairs)
    x, y = batch()
    assert torch.equal(model(x, y, CrossEntropyLoss()), saved(x, y, CrossEntropyLoss()))


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_without_iterates(assign):
    saved, model = trained(), net(seed=1)
    before = [vector.clone() for vector in model.iterates.vectors()]
    assert model.load_state_dict(weights(saved), assign=assign) == ([], [])
    assert_has_weights_of(model, saved)
    assert all(torch.equal(*pair) for pair in zip(before, model.iterates.vectors(), strict=True))
    assert model(*batch(), CrossEntropyLoss()).isfinite()


def test_a_checkpoint_of_another_resolution():
    saved, model = trained(12), net(8, seed=1)
    shapes = [vector.shape for vector in model.iterates.vectors()]
    assert shapes != [vector.shape for vector in saved.iterates.vectors()]
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    assert model.load_state_dict(torch.load(file, weights_only=True)) == ([], [])
    assert_has_weights_of(model, saved)
    assert [vector.shape for vector in model.iterates.vectors()] == shapes
    # The dense layer's fits.
    assert torch.equal(model.iterates.vectors()[1], saved.iterates.vectors()[1])
    assert model(*batch(), CrossEntropyLoss()).isfinite()
    assert model.eval().lipschitz > 0


def test_one_iterate_more_than_there_are_layers():
    model = net(seed=1)
    state = {**trained().state_dict(), "iterates.7": torch.ones(3)}
    assert model.load_state_dict(state) == ([], [])
    assert len(model.iterates.vectors()) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("module.0.weight"), r'Missing key.*"module\.0\.weight"'),
        (lambda state: state.update({"module.9.weight": torch.ones(1)}), r'Unexpected key.*"module\.9\.weight"'),
        (lambda state: state.update({"iterates.mean": torch.ones(1)}), r'Unexpected key.*"iterates\.mean"'),
        (lambda state: state.update({"module.0.weight": torch.ones(1)}), "size mismatch"),
    ],
)
def test_the_rest_is_as_strict_as_ever(change, match):
    state = dict(trained().state_dict())
    change(state)
    with pytest.raises(RuntimeError, match=f"(?s){match}"):
        net().load_state_dict(state)
