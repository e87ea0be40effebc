"""Proofs of the audit: what they prove is true, and what is true with a little slack they prove."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

pytest.importorskip("scipy", reason="audit needs scipy: install gloro-fast[audit]")
from scipy import sparse

from gloro_fast.audit import spectral
from gloro_fast.audit.spectral import proves

LAPLACE = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]])


def exact_norm(matrix):
    """The norm as an interval of rationals of width 1e-40, from a singular value decomposition in 60 digits."""
    with mpmath.workdps(60):
        values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
        return Fraction(int(max(values) * mpmath.mpf(10) ** 45), 10**45)


@pytest.fixture(params=["exactly", "by factors"])
def way(request, monkeypatch):
    """Both ways, for the same small matrices."""
    if request.param == "by factors":
        monkeypatch.setattr(spectral, "EXACT_SIDE", 0)
        monkeypatch.setattr(spectral, "_SMALLEST_BLOCK", 3)
    return request.param


def test_it_proves_what_is_above_and_nothing_below(way):
    generator = np.random.default_rng(0)
    for _ in range(15):
        matrix = generator.standard_normal(generator.integers(1, 9, 2)).astype(np.float32).astype(np.float64)
        matrix *= 2.0 ** float(generator.integers(-60, 60))
        sigma = exact_norm(matrix)
        above = float(sigma * (1 + Fraction(1, 10**11)))
        below = float(sigma * (1 - Fraction(1, 10**14)))
        assert proves(sparse.csr_array(matrix), above)
        assert not proves(sparse.csr_array(matrix), below)
        assert not proves(sparse.csr_array(matrix), 0.999 * above)


def test_the_known_norm_of_a_second_difference(way):
    # On the torus of the same side it would be 3: a bound that is none.
    matrix = sparse.csr_array(LAPLACE)
    assert proves(matrix, math.nextafter(2 + math.sqrt(2), 4) + 1e-12)
    assert not proves(matrix, 3.4142135623)
    assert not proves(matrix, 3.0)


def test_equality_is_a_proof_in_rational_numbers():
    for matrix, norm in ((np.eye(4), 1.0), (np.array([[3.0], [4.0]]), 5.0), (np.ones((4, 4)), 4.0)):
        assert proves(sparse.csr_array(matrix), norm)
        assert not proves(sparse.csr_array(matrix), math.nextafter(norm, 0))


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e300])
def test_tiny_and_huge_entries(way, value):
    matrix = sparse.csr_array(np.array([[value, value], [0.0, value]]))
    norm = value * 1.6180339887498949
    assert proves(matrix, norm * (1 + 1e-9) if value > 1e-320 else 2 * value)
    assert not proves(matrix, norm * 0.999 if value > 1e-320 else value)


def test_what_is_no_bound(way):
    matrix = sparse.csr_array(np.eye(3))
    assert not proves(matrix, math.nan)
    assert not proves(matrix, -1.0)
    assert not proves(matrix, 0.0)
    assert proves(matrix, math.inf)
    assert proves(sparse.csr_array((3, 3)), 0.0)
    assert not proves(sparse.csr_array(np.array([[math.nan, 1.0]])), 5.0)


def test_blocks_of_a_band_give_what_one_block_gives(monkeypatch):
    side = 60
    matrix = sparse.csr_array(sparse.diags_array([1.0, -2.5, 1.0], offsets=[-1, 0, 1], shape=(side, side)))
    norm = float(np.linalg.norm(matrix.toarray(), 2))
    monkeypatch.setattr(spectral, "EXACT_SIDE", 0)
    for block, sliced in ((3, 0), (7, 640), (64, 0)):
        # The side from which products are simply rounded, too: the matrices are small here.
        monkeypatch.setattr(spectral, "_SMALL_SIDE", sliced)
        monkeypatch.setattr(spectral, "_SMALLEST_BLOCK", block)
        assert proves(matrix, norm * (1 + 1e-10))
        assert not proves(matrix, norm * (1 - 1e-10))
        assert not proves(matrix, norm * 0.999)


def test_a_factor_that_is_wrong_proves_nothing(monkeypatch):
    # As a library would that inverts badly: what is left over is measured, not believed.
    right = np.linalg.cholesky
    monkeypatch.setattr(spectral, "EXACT_SIDE", 0)
    monkeypatch.setattr(np.linalg, "cholesky", lambda a: right(a + np.eye(len(a))))
    assert not proves(sparse.csr_array(LAPLACE), 3.4)


def test_what_is_too_large_is_not_tried(monkeypatch):
    monkeypatch.setattr(spectral, "LARGEST_WORK", 10)
    monkeypatch.setattr(spectral, "EXACT_SIDE", 0)
    assert proves(sparse.csr_array(LAPLACE), 3.5) is None


def test_quotients_prove_the_norm_of_what_is_not_negative(monkeypatch):
    monkeypatch.setattr(spectral, "_SMALL_SIDE", 0)
    generator = np.random.default_rng(2)
    for scale in (1.0, 1e-200, 1e200):
        matrix = generator.random((12, 9)) * scale
        norm = float(np.linalg.norm(matrix / scale, 2)) * scale
        assert spectral.proves_nonnegative(sparse.csr_array(matrix), norm * (1 + 1e-9))
        assert not spectral.proves_nonnegative(sparse.csr_array(matrix), norm * (1 - 1e-12))
