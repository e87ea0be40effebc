"""Distances of scaled rows, contained strictly: against rational numbers, without a tolerance."""

import importlib
from fractions import Fraction

import pytest
import torch

from gloro_fast.bounds.head_differences import scaled_difference_bounds
from gloro_fast.ops.head_difference_bounds_op import head_difference_bounds

# For what it holds beside its functions.
module = importlib.import_module("gloro_fast.ops.head_difference_bounds_op")


def exact_square(weight, factors, i, j, sign):
    def row(k):
        scale = Fraction(1)
        for factor in factors:
            scale *= Fraction(float(factor[k]))
        return [Fraction(float(value)) * scale for value in weight[k]]

    return sum((a - sign * b) ** 2 for a, b in zip(row(i), row(j), strict=True))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e25, 1e-120])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_times_factors(signed, dtype, size, count):
    torch.manual_seed(4)
    weight = torch.randn(4, 6, dtype=dtype)
    weight[3] = weight[1]
    factors = [torch.randn(4, dtype=torch.float64) * size for _ in range(count)]
    factors[0][3] = factors[0][1]
    factors[0][2] = 0.0
    found = scaled_difference_bounds(weight, factors, signed)
    for i in range(4):
        assert found[i, i] == 0
        for j in range(4):
            square = max(exact_square(weight, factors, i, j, sign) for sign in ((1,) if signed else (1, -1)))
            if i != j:
                assert found[i, j] == float("inf") or Fraction(float(found[i, j])) ** 2 >= square
                if size > 1e-50:
                    lengths = weight.double().norm(dim=1) * torch.stack(factors).prod(dim=0).abs()
                    assert float(found[i, j]) <= float(square) ** 0.5 + 1e-12 * float(lengths[i] + lengths[j]) + 1e-36


def test_factors_of_one_leave_the_bounds_as_they_are():
    weight = torch.randn(4, 6)
    ones = [torch.ones(4, dtype=torch.float64)]
    assert torch.equal(scaled_difference_bounds(weight, ones, True), head_difference_bounds(weight))
    both = scaled_difference_bounds(weight, ones, False)
    assert (both >= head_difference_bounds(weight)).all()
    assert Fraction(float(both[0, 1])) ** 2 >= exact_square(weight, [], 0, 1, -1)


def test_products_that_vanish_on_the_way_certify_nothing():
    tiny, huge = torch.full((3,), 1e-180, dtype=torch.float64), torch.full((3,), 1e300, dtype=torch.float64)
    weight = torch.randn(3, 5)
    off = ~torch.eye(3, dtype=torch.bool)
    assert scaled_difference_bounds(weight, [tiny, tiny, huge], True)[off].isinf().all()
    assert scaled_difference_bounds(weight, [tiny, huge, tiny], True)[off].isfinite().all()
    nan = torch.full((3,), float("nan"), dtype=torch.float64)
    assert scaled_difference_bounds(weight, [nan], True)[off].isnan().all()


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_every_pair_of_more_rows_than_are_mirrored_at_once(count, monkeypatch):
    monkeypatch.setattr(module, "_TILE", 7)
    weight = torch.randn(count, 5)
    weight[count // 2 :: 3] = weight[0].clone()
    weight[-1] += 1e-30
    found = head_difference_bounds(weight)
    assert torch.equal(found, found.T)
    for i in range(count):
        for j in range(count):
            square = exact_square(weight, [], i, j, 1)
            assert (found[i, j] == 0) == (square == 0)
            assert square <= Fraction(float(found[i, j])) ** 2 <= square * (1 + Fraction(1, 10**12))


def test_distances_whose_squares_underflow_beside_others_that_do_not():
    weight = torch.randn(6, 5, dtype=torch.float64)
    weight[2:5] = 1e-170 * torch.randn(3, 5, dtype=torch.float64)
    found = head_difference_bounds(weight)
    for i in range(6):
        for j in range(i):
            square = exact_square(weight, [], i, j, 1)
            assert square <= Fraction(float(found[i, j])) ** 2 <= square * 5
