"""Largest eigenvalues, contained strictly: against rational numbers, without a tolerance."""

import importlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_norms import integers
from hypothesis import given, settings
from hypothesis import strategies as st

from gloro_fast.bounds.eigenvalue import largest_eigenvalue
from gloro_fast.bounds.lanczos import largest_ritz_values

# For what it holds beside its function.
module = importlib.import_module("gloro_fast.bounds.eigenvalue")


def real_form(matrix):
    """X + iY as [[X, -Y], [Y, X]], which has its eigenvalues twice; of its lower triangle."""
    lower = matrix.numpy()
    real = np.tril(lower.real) + np.tril(lower.real, -1).T
    imag = np.tril(lower.imag, -1) - np.tril(lower.imag, -1).T
    return np.block([[real, -imag], [imag, real]])


def from_below(matrix):
    """A rational <= the largest eigenvalue, and within about 1e-28 of it: a Rayleigh quotient."""
    array = real_form(matrix)
    vector, _ = integers(np.linalg.eigh(array)[1][:, -1])
    whole, exponent = integers(array)
    return Fraction(int(vector @ whole @ vector), int(vector @ vector)) * Fraction(2) ** exponent


def hermitian(count, order, kind, generator):
    """(count, order, order) complex128, or float64 if ``kind`` is "real"."""
    shape = (count, order, 2 if kind == "low rank" else order)
    factor = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind != "real":
        factor = torch.complex(factor, torch.randn(shape, generator=generator, dtype=torch.float64))
    if kind == "far apart":
        factor = factor * 10.0 ** -torch.arange(order)[:, None]
    return factor @ factor.mH


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.sampled_from(["real", "complex", "low rank", "far apart"]),
    st.sampled_from([1e-9, 1e-6, 0.1]),
    st.sampled_from([0, -250, 90]),
)
def test_never_below_and_as_near_as_asked(seed, order, kind, excess, exponent):
    matrices = hermitian(3, order, kind, torch.Generator().manual_seed(seed)) * 2.0**exponent
    found = largest_eigenvalue(matrices, excess)
    exact = max(map(from_below, matrices))
    assert Fraction(found) >= exact
    assert found < float(exact) * (1 + 1.01 * excess + 1e-9)


def test_only_the_lower_triangle_counts_and_the_diagonal_is_real():
    matrices = hermitian(2, 70, "complex", torch.Generator().manual_seed(0))
    expected = largest_eigenvalue(matrices, 1e-6)
    spoilt = matrices + torch.triu(torch.full((70, 70), 1e-7), 1)
    spoilt.diagonal(dim1=1, dim2=2).imag.add_(1e-7)
    assert largest_eigenvalue(spoilt, 1e-6) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_asked_of_the_library(monkeypatch):
    # A factor that is off by a thousandth is measured, not believed.
    factor = torch.linalg.cholesky_ex

    def rough(matrices):
        found, info = factor(matrices)
        return found * (1 - 1e-3 * torch.rand(found.shape)), info

    monkeypatch.setattr(torch.linalg, "cholesky_ex", rough)
    for kind in ("real", "complex"):
        matrices = hermitian(3, 90, kind, torch.Generator().manual_seed(1))
        found, exact = largest_eigenvalue(matrices, 1e-4), max(map(from_below, matrices))
        assert Fraction(found) >= exact
        assert found > float(exact) * (1 + 2e-4)


def test_the_residual_of_those_that_are_verified_first_counts(monkeypatch):
    factor, calls = torch.linalg.cholesky_ex, []

    def rough_at_first(matrices):
        calls.append(len(matrices))
        found, info = factor(matrices)
        return (found * 0.95, torch.tensor([0, 1])) if len(calls) == 1 else (found, info)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", rough_at_first)
    matrices = hermitian(2, 40, "complex", torch.Generator().manual_seed(1))
    exact = torch.linalg.eigvalsh(matrices).max().item()
    found = largest_eigenvalue(matrices, 1e-6)
    assert calls == [2, 1]
    assert found > exact * 1.05


def test_the_residual_is_that_of_the_lower_triangle():
    for kind in ("real", "complex"):
        matrices = hermitian(2, 150, kind, torch.Generator().manual_seed(2))
        factor = torch.linalg.cholesky(matrices) + 0.01 * torch.rand(150, 150).tril()
        lower = (matrices - factor @ factor.mH).tril()
        expected = torch.linalg.matrix_norm(lower).max().item()
        assert module.residual_norm(matrices, factor) == pytest.approx(expected, rel=1e-9)


def test_values_that_hid_from_the_first_start_are_found(monkeypatch):
    # Of half of the matrices the first estimate is a tenth too small.
    def estimates(matrices, *args, seed=0, **options):
        found = largest_ritz_values(matrices, *args, seed=seed, **options)
        return found if seed else found * 0.9

    monkeypatch.setattr(module, "largest_ritz_values", estimates)
    matrices = hermitian(4, 40, "complex", torch.Generator().manual_seed(3))
    matrices = (
        matrices
        / torch.linalg.eigvalsh(matrices)[:, -1, None, None]
        * torch.tensor([1.0, 0.8, 0.95, 0.5])[:, None, None]
    )
    assert 1 - 1e-12 < largest_eigenvalue(matrices, 1e-6) < 1 + 1e-5


def test_floor_and_ceiling():
    for order in (1, 40):
        matrices = hermitian(5, order, "complex", torch.Generator().manual_seed(4))
        exact = torch.linalg.eigvalsh(matrices).max().item()
        assert 2 * exact <= largest_eigenvalue(matrices, 1e-6, floor=2 * exact) < 2 * exact * (1 + 1e-9)
        assert largest_eigenvalue(matrices, 1e-6, ceiling=exact / 2) == math.inf


def test_what_is_no_number_or_cannot_be_factorised_gives_inf(monkeypatch):
    matrices = hermitian(2, 40, "complex", torch.Generator().manual_seed(5))
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda given: (given, torch.ones(len(given))))
    assert largest_eigenvalue(matrices, 1e-6) == math.inf
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda given: (given * math.nan, torch.zeros(len(given))))
    assert largest_eigenvalue(matrices, 1e-6) == math.inf


def test_of_zeros():
    assert 0 < largest_eigenvalue(torch.zeros(2, 40, 40, dtype=torch.complex128), 1e-6) < 1e-80


@pytest.mark.parametrize("kind", ["real", "complex", "low rank"])
def test_ritz_values_come_from_below(kind):
    matrices = hermitian(6, 60, kind, torch.Generator().manual_seed(6)) * torch.rand(6, 1, 1)
    exact = torch.linalg.eigvalsh(matrices)[:, -1]
    found = largest_ritz_values(matrices, 1e-7)
    assert (found < exact * (1 + 1e-12)).all()
    assert found.max() > exact.max() * (1 - 1e-9)


@pytest.mark.parametrize("order", [5, 60])
def test_no_estimate_is_made_of_what_is_below_the_floor(order, monkeypatch):
    matrices = hermitian(6, order, "complex", torch.Generator().manual_seed(7))
    matrices = matrices / torch.linalg.eigvalsh(matrices)[:, -1, None, None]
    matrices = matrices * torch.tensor([0.3, 0.9, 0.6, 0.2, 0.8, 0.5])[:, None, None]
    estimated = []

    def counted(given, *arguments, **options):
        estimated.append(len(given))
        return largest_ritz_values(given, *arguments, **options)

    monkeypatch.setattr(module, "largest_ritz_values", counted)
    found = largest_eigenvalue(matrices, 1e-6, floor=0.7)
    assert estimated == [2]
    assert Fraction(found) >= max(map(from_below, matrices))
    assert found == pytest.approx(0.9, rel=1e-5)
    estimated.clear()
    assert largest_eigenvalue(matrices[[0, 2, 3]], 1e-6, floor=0.7) == pytest.approx(0.7, rel=1e-9)
    assert not estimated
    assert largest_eigenvalue(matrices, 1e-6, floor=math.inf) == math.inf
