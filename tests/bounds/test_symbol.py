import itertools

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_fast.bounds.symbol import Frequencies, SquaredSymbol, cosine_sine

U = mpmath.mpf(2) ** -53


@given(st.integers(-(10**6), 10**6), st.integers(1, 3000))
def test_phases_are_known_to_8_u(numerator, denominator):
    cosine, sine = cosine_sine(numerator, denominator)
    with mpmath.workdps(40):
        angle = mpmath.pi * numerator / denominator
        assert abs(mpmath.cos(angle) - cosine) <= 8 * U
        assert abs(mpmath.sin(angle) - sine) <= 8 * U


def value(kernel, positions, omega):
    """K'(omega) of a kernel (rows, columns, *taps) by mpmath, omega in units of pi."""
    rows, columns, *sizes = kernel.shape
    result = mpmath.matrix(rows, columns)
    for tap in itertools.product(*map(range, sizes)):
        place = (where[index] for where, index in zip(positions, tap, strict=True))
        phase = mpmath.expjpi(mpmath.fsum(mpmath.mpf(a) / n * at for (a, n), at in zip(omega, place, strict=True)))
        for i, j in itertools.product(range(rows), range(columns)):
            result[i, j] += kernel[(i, j, *tap)].item() * phase
    return result


@pytest.mark.parametrize("shape", [(2, 3, 3, 2), (3, 2, 3, 2), (1, 1, 2, 4), (4, 1, 1, 3)])
@pytest.mark.parametrize("positions", [([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 3, 4, 5], [0, 2, 4, 6])])
def test_it_is_within_its_error_of_the_square(shape, positions):
    kernel = torch.randn(1, *shape, dtype=torch.float64)
    positions = [where[:size] for where, size in zip(positions, shape[2:], strict=True)]
    symbol = SquaredSymbol.of(kernel, positions, [1, 1])
    grids = [Frequencies.of_torus(5, 0, half=True), Frequencies.of_torus(4, 1, half=False)]
    found = symbol.at(grids)
    assert found.shape[1] == min(shape[:2])
    # As errors add up by chance, they are at most some hundredths of what they might be.
    assert symbol.error < 1e-11
    with mpmath.workdps(40):
        for index, (a, b) in enumerate((a, b) for a in grids[0].multiples for b in grids[1].multiples):
            real = value(kernel[0], positions, [(a, 5), (b, 4)])
            # Of the transpose the symbol is K'^T, and its square K'^T conj(K').
            square = real * real.H if shape[0] <= shape[1] else real.T * real.conjugate()
            difference = mpmath.matrix(found.shape[1], found.shape[1])
            for i, j in itertools.product(range(found.shape[1]), repeat=2):
                difference[i, j] = mpmath.mpc(complex(found[index, i, j])) - square[i, j]
            assert mpmath.mnorm(difference, "F") < symbol.error


def test_a_stride_makes_channels_of_the_phases():
    kernel = torch.randn(1, 2, 3, 5, dtype=torch.float64)
    cells = torch.nn.functional.pad(kernel, (0, 1)).reshape(1, 2, 3, 3, 2).permute(0, 1, 2, 4, 3).reshape(1, 2, 6, 3)
    grid = [Frequencies.of_torus(7, 0, half=False)]
    strided = SquaredSymbol.of(kernel, [[0, 1, 2, 3, 4]], [2]).at(grid)
    torch.testing.assert_close(strided, SquaredSymbol.of(cells, [[0, 1, 2]], [1]).at(grid), rtol=1e-12, atol=1e-12)


def test_groups_lie_beside_one_another():
    kernel = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    grid = [Frequencies.of_torus(5, 1, half=True)]
    whole = SquaredSymbol.of(kernel, [[0, 1, 2]], [1])
    each = [SquaredSymbol.of(kernel[group : group + 1], [[0, 1, 2]], [1]) for group in range(3)]
    found = whole.at(grid).unflatten(0, (-1, 3))
    for group, symbol in enumerate(each):
        torch.testing.assert_close(found[:, group], symbol.at(grid), rtol=1e-12, atol=1e-12)
    assert whole.error == pytest.approx(max(symbol.error for symbol in each))


def test_half_of_the_frequencies_is_enough():
    kernel = torch.randn(1, 2, 2, 3, 3, dtype=torch.float64)
    symbol = SquaredSymbol.of(kernel, [[0, 1, 2]] * 2, [1, 1])
    for side in (4, 5):
        for twist in (0, 1):
            values = []
            for half in (True, False):
                grids = [Frequencies.of_torus(side, twist, half), Frequencies.of_torus(side, twist, half=False)]
                values.append(torch.linalg.eigvalsh(symbol.at(grids)))
            assert len(values[0]) < len(values[1])
            assert values[0].max() == pytest.approx(values[1].max())
