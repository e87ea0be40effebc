import importlib

import pytest
import torch

from gloro_fast.bounds import METHODS
from gloro_fast.bounds.auto import auto, tight
from gloro_fast.nn import LinearMap
from gloro_fast.ops import Geometry

# The package has the function under the module's name.
module = importlib.import_module("gloro_fast.bounds.auto")

SMALL = LinearMap(torch.ones(4, 2, 3, 3), Geometry((2, 6, 6), (1, 1), ((1, 1), (1, 1)), (1, 1)))
# conv2 of 8C2F.
LARGE = LinearMap(torch.ones(64, 64, 3, 3), Geometry((64, 32, 32), (1, 1), ((1, 1), (1, 1)), (1, 1)))


def test_small_layers_are_verified_nearly_exactly():
    found = auto("layer", SMALL)
    assert (found.name, found.method, found.kind) == ("layer", "cholesky", "upper bound")
    assert found.value == pytest.approx(tight("layer", SMALL).value, rel=2e-5)


def test_large_layers_take_the_smaller_of_two(monkeypatch):
    assert module._UNDER_A_SECOND < module.cholesky_work(LARGE) < module._MINUTES
    monkeypatch.setattr(module, "cholesky_work", lambda layer: 1e20)
    for method in (auto, tight):
        found = method("layer", SMALL)
        assert found.value == min(METHODS[name]("layer", SMALL).value for name in ("torus", "trivial"))
        assert found.method in ("torus", "trivial")


def test_what_cannot_be_factorised_has_a_bound_all_the_same(monkeypatch):
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrix: (matrix, torch.ones(len(matrix))))
    found = auto("layer", SMALL)
    assert found.method in ("torus", "trivial")
    assert METHODS["power"]("layer", SMALL).value < found.value < 1e3
