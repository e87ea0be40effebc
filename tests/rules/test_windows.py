"""The norms of pooling windows, proven in rational arithmetic; the windows themselves against torch."""

import itertools
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from gloro_fast.rules.windows import (
    Window,
    adaptive_windows,
    largest_coverage,
    pooling_windows,
    root_up,
    squared_averaging_norm,
)

SETTINGS = [
    (size, kernel, stride, padding, ceil_mode)
    for size, kernel, stride, ceil_mode in itertools.product([1, 4, 7, 12], [1, 2, 3, 5], [1, 2, 3, 6], [False, True])
    for padding in range(kernel // 2 + 1)
    if size + 2 * padding >= kernel
]


def averaging(windows, size):
    """The exact averaging matrix, (windows, size)."""
    return [[Fraction(int(pixel in w.pixels), w.divisor) for pixel in range(size)] for w in windows]


def is_semidefinite(matrix):
    """Return whether a symmetric rational matrix is positive semidefinite, by elimination without rounding."""
    rows = [list(row) for row in matrix]
    while rows:
        pivot = rows[0][0]
        if pivot < 0 or (pivot == 0 and any(rows[0])):
            return False
        rest = rows[1:]
        if pivot:
            rest = [[x - row[0] * y / pivot for x, y in zip(row, rows[0], strict=True)] for row in rest]
        rows = [row[1:] for row in rest]
    return True


def gram(matrix, factor):
    """factor * I - A A^T."""
    return [
        [(factor if i == j else 0) - sum(x * y for x, y in zip(a, b, strict=True)) for j, b in enumerate(matrix)]
        for i, a in enumerate(matrix)
    ]


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_windows_are_those_of_torch(count_include_pad):
    for size, kernel, stride, padding, ceil_mode in SETTINGS:
        basis = torch.eye(size, dtype=torch.float64)[:, None]
        expected = F.avg_pool1d(basis, kernel, stride, padding, ceil_mode, count_include_pad)[:, 0].T
        windows = pooling_windows(size, kernel, stride, padding, ceil_mode=ceil_mode)
        if not count_include_pad:
            windows = [Window(w.pixels, len(w.pixels)) for w in windows]
        found = torch.tensor([[float(x) for x in row] for row in averaging(windows, size)], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_dilated_windows_are_those_of_torch():
    for size, kernel, stride, padding, ceil_mode in SETTINGS:
        dilation = 2
        if size + 2 * padding < dilation * (kernel - 1) + 1:
            continue
        # A peak shows in the windows that it is in; one with no pixel gives -inf.
        peaks = torch.eye(size)[:, None]
        expected = F.max_pool1d(peaks, kernel, stride, padding, dilation, ceil_mode)[:, 0].T.clamp_min(0)
        windows = pooling_windows(size, kernel, stride, padding, dilation, ceil_mode)
        found = torch.tensor([[float(pixel in w.pixels) for pixel in range(size)] for w in windows])
        assert torch.equal(found, expected)
        assert largest_coverage(windows) == found.sum(0).max()


def test_adaptive_windows_are_those_of_torch():
    for size, outputs in itertools.product(range(1, 12), range(1, 12)):
        expected = F.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64)[:, None], outputs)[:, 0].T
        rows = averaging(adaptive_windows(size, outputs), size)
        found = torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_squared_norm_is_never_below_the_exact_one_and_hardly_above():
    cases = [(size, pooling_windows(size, k, s, p, ceil_mode=c)) for size, k, s, p, c in SETTINGS if s > 1 or size < 9]
    cases += [(size, adaptive_windows(size, outputs)) for size, outputs in itertools.product([3, 5, 8], range(1, 9))]
    for size, windows in cases:
        matrix, square = averaging(windows, size), squared_averaging_norm(windows)
        assert is_semidefinite(gram(matrix, square))
        assert not is_semidefinite(gram(matrix, square * (1 - Fraction(1, 10**12))))


def test_windows_that_do_not_overlap_are_exact():
    assert squared_averaging_norm(pooling_windows(9, 3, 3)) == Fraction(1, 3)
    assert root_up(squared_averaging_norm(pooling_windows(8, 2, 2)) ** 2) == 0.5


def test_the_norm_of_long_rows_is_tight_too():
    windows = pooling_windows(224, 3, 1, 1)
    matrix = torch.tensor([[float(x) for x in row] for row in averaging(windows, 224)], dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2).item()
    assert exact * (1 - 1e-13) <= root_up(squared_averaging_norm(windows)) <= exact * (1 + 1e-12)


@pytest.mark.parametrize("square", [Fraction(0), Fraction(1, 3), Fraction(2), Fraction(1, 4), Fraction(10**40 + 1)])
def test_a_root_is_the_least_number_not_below_the_real_one(square):
    root = root_up(square)
    assert Fraction(root) ** 2 >= square
    below = torch.nextafter(torch.tensor(root, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)).item()
    assert root == 0 or Fraction(below) ** 2 < square
