import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_fast.bounds.symbol import Frequencies, Symbol, cosine_sine

U = mpmath.mpf(2) ** -53


@given(st.integers(-(10**6), 10**6), st.integers(1, 3000))
def test_phases_are_known_to_8_u(numerator, denominator):
    cosine, sine = cosine_sine(numerator, denominator)
    with mpmath.workdps(40):
        angle = mpmath.pi * numerator / denominator
        assert abs(mpmath.cos(angle) - cosine) <= 8 * U
        assert abs(mpmath.sin(angle) - sine) <= 8 * U


def test_symbol_against_the_fourier_transform_and_its_error_against_mpmath():
    kernel = torch.randn(1, 2, 3, 3, 2, dtype=torch.float64)
    symbol = Symbol.of(kernel, [[0, 1, 2], [0, 1]], [1, 1])
    grids = [Frequencies.of_torus(5, 0, half=True), Frequencies.of_torus(4, 0, half=False)]
    real, imag = symbol.at(grids)
    expected = torch.fft.fft2(kernel[0], s=(5, 4)).conj().permute(2, 3, 0, 1)[:3].reshape(-1, 2, 3)
    torch.testing.assert_close(torch.complex(real, imag), expected, rtol=1e-12, atol=1e-12)
    with mpmath.workdps(40):
        for index, (a, b) in enumerate((a, b) for a in grids[0].multiples for b in grids[1].multiples):
            for row in range(2):
                for column in range(3):
                    value = mpmath.fsum(
                        kernel[0, row, column, u, v].item()
                        * mpmath.expjpi(mpmath.mpf(a * u) / 5 + mpmath.mpf(b * v) / 4)
                        for u in range(3)
                        for v in range(2)
                    )
                    found = mpmath.mpc(real[index, row, column].item(), imag[index, row, column].item())
                    assert abs(found - value) < symbol.error


def test_half_of_the_frequencies_is_enough():
    kernel = torch.randn(1, 2, 2, 3, 3, dtype=torch.float64)
    symbol = Symbol.of(kernel, [[0, 1, 2]] * 2, [1, 1])
    for side in (4, 5):
        for twist in (0, 1):
            norms = []
            for half in (True, False):
                grids = [Frequencies.of_torus(side, twist, half), Frequencies.of_torus(side, twist, half=False)]
                norms.append(torch.linalg.matrix_norm(torch.complex(*symbol.at(grids)), 2))
            assert len(norms[0]) < len(norms[1])
            assert norms[0].max() == pytest.approx(norms[1].max())
