"""The constants of smooth activations, proven with mpmath: by where the slope is largest, and by intervals."""

import itertools
import math

import pytest

from gloro_fast.rules import activations as slopes

mpmath = pytest.importorskip("mpmath", reason="the proof needs mpmath: install gloro-fast[dev]")
mp, iv = mpmath.mp, mpmath.iv


def sigmoid(x, m=mp):
    return 1 / (1 + m.exp(-x))


def silu_slope(x, m=mp):
    s = sigmoid(x, m)
    return s * (1 + x * (1 - s))


def gelu_tanh_slope(x, m=mp):
    a, b = m.sqrt(2 / m.pi), m.mpf("0.044715")
    t = 2 * sigmoid(2 * a * (x + b * x**3), m) - 1
    return (1 + t) / 2 + x / 2 * (1 - t * t) * a * (1 + 3 * b * x * x)


def mish_slope(x, m=mp):
    # tanh(log(1 + e^x)) = (e^2x + 2 e^x) / (e^2x + 2 e^x + 2), whose slope is 4 e^x (1 + e^x) / (...)^2.
    e = m.exp(x)
    bottom = e * e + 2 * e + 2
    return 1 - 2 / bottom + x * 4 * e * (1 + e) / (bottom * bottom)


def is_barely_above(constant, real):
    """Return whether the float64 constant is at least the real number, and within three units of its last place."""
    return mp.mpf(constant) >= real and constant - 3 * math.ulp(constant) < real


def test_gelu_is_steepest_at_the_root_of_two():
    with mp.workdps(50):
        x = mp.sqrt(2)
        steepest = mp.ncdf(x) + x * mp.npdf(x)
        assert is_barely_above(slopes.GELU_ERF, steepest)


@pytest.mark.parametrize(
    ("constant", "slope", "near"),
    [(slopes.SILU, silu_slope, 2.4), (slopes.GELU_TANH, gelu_tanh_slope, 1.42), (slopes.MISH, mish_slope, 1.49)],
)
def test_a_slope_is_nowhere_above_its_constant(constant, slope, near):
    with mp.workdps(40):
        peak = mp.findroot(lambda x: mp.diff(slope, x), near)
        assert is_barely_above(constant, slope(peak))
    # Around the peak the slope is concave there, by its second difference in exact arithmetic on a fine grid; away
    # from it intervals keep it below 1.08, and beyond 12 it is within 1e-3 of 0 or 1.
    with mp.workdps(30):
        grid = [peak + mp.mpf(k) / 100 for k in range(-60, 61)]
        values = [slope(x) for x in grid]
        assert all(a + c < 2 * b for a, b, c in zip(values, values[1:], values[2:], strict=False))
        assert all(mp.diff(slope, x) * (x - peak) < 0 for x in grid if abs(x - peak) > 1e-9)
    limit = constant - 1e-3
    edges = [k / 64 for k in range(-12 * 64, 12 * 64 + 1)]
    for low, high in itertools.pairwise(edges):
        if high < peak - 0.5 or low > peak + 0.5:
            assert largest(slope, low, high, limit) < limit
    assert abs(slope(mp.mpf(-12))) < 1e-3
    assert abs(slope(mp.mpf(12)) - 1) < 1e-3


def largest(slope, low, high, limit, depth=6):
    """An upper bound on |slope| over [low, high] by interval arithmetic, halved while it is not below ``limit``."""
    value = slope(iv.mpf([low, high]), iv)
    bound = float(max(abs(value.a), abs(value.b)))
    if bound < limit or depth == 0:
        return bound
    middle = (low + high) / 2
    return max(largest(slope, low, middle, limit, depth - 1), largest(slope, middle, high, limit, depth - 1))


def test_selu_is_the_product_of_its_two_constants():
    with mp.workdps(50):
        product = mp.mpf("1.0507009873554804934193349852946") * mp.mpf("1.6732632423543772848170429916717")
        assert is_barely_above(slopes.SELU, product)


def test_a_sixth_is_rounded_up():
    assert is_barely_above(slopes.HARDSIGMOID, mp.mpf(1) / 6)
