import importlib
from fractions import Fraction

import pytest
import torch
from exact_norms import contains

from gloro_fast.bounds.dense import dense_norm
from gloro_fast.bounds.scaling import scale
from gloro_fast.rounding import UNIT_ROUNDOFF

# For what it holds beside its function.
module = importlib.import_module("gloro_fast.bounds.dense")


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (40, 5), (33, 70), (70, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gram_matrix_may_be_formed_in_any_parts(shape, dtype, monkeypatch):
    weight = torch.randn(shape, dtype=torch.float64).to(dtype)
    scaled = scale(weight)
    whole = dense_norm(scaled, 1e-6)
    monkeypatch.setattr(module, "_PART", 100)
    monkeypatch.setattr(module, "_ROWS", 4)
    parts = dense_norm(scaled, 1e-6)
    for found in (whole, parts):
        assert contains(scaled.unscale_up(found), weight.double())
        assert found < torch.linalg.matrix_norm(scaled.weight, 2).item() * (1 + 2e-6)


def test_the_error_of_forming_is_added(monkeypatch):
    weight = torch.randn(20, 50)
    scaled = scale(weight)
    monkeypatch.setattr(module, "largest_eigenvalue", lambda matrices, excess: 3.0)
    squares = sum(Fraction(value) ** 2 for value in scaled.weight.flatten().tolist())
    assert Fraction(dense_norm(scaled, 1e-6)) ** 2 >= 3 + 50 * Fraction(UNIT_ROUNDOFF) * squares
