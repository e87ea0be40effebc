"""Functions of float32 numbers that Triton has not, or has with fewer digits: its exp and log are approximations."""

from __future__ import annotations

import triton
import triton.language as tl

INFINITY = tl.constexpr(float("inf"))
_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def is_finite(x):
    """Return whether x is neither NaN nor infinite."""
    return tl.abs(x) <= _LARGEST


@triton.jit
def next_after(x, up):
    """Return the neighbour of x above (where ``up``) or below."""
    bits = x.to(tl.int32, bitcast=True)
    outward = (x > 0) == up
    neighbour = (bits + tl.where(outward, 1, -1)).to(tl.float32, bitcast=True)
    least = tl.where(up, 1, -2147483647).to(tl.int32).to(tl.float32, bitcast=True)
    ends = (x != x) | ((tl.abs(x) == INFINITY) & outward)
    return tl.where(ends, x, tl.where(x == 0, least, neighbour))


@triton.jit
def exp(x):
    """Return e^x to 2 units in the last place, 0 below e^-87; NaN and infinities as they should be."""
    within = tl.minimum(tl.maximum(x, -87.0), 88.0)
    power = tl.floor(within * 1.4426950408889634 + 0.5)
    rest = tl.fma(power, -0.693359375, within)  # ln 2 in two parts, the first of few bits: exact
    rest = tl.fma(power, 2.12194440e-4, rest)
    value = tl.fma(rest, 1.9875691500e-4, 1.3981999507e-3)
    value = tl.fma(value, rest, 8.3334519073e-3)
    value = tl.fma(value, rest, 4.1665795894e-2)
    value = tl.fma(value, rest, 1.6666665459e-1)
    value = tl.fma(value, rest, 5.0000001201e-1)
    value = tl.fma(value * rest, rest, rest) + 1.0
    value *= ((power.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    value = tl.where(x < -87.0, 0.0, tl.where(x > 88.0, INFINITY, value))
    return tl.where(x != x, x, value)


@triton.jit
def log1p(x):
    """Return log(1 + x) for x >= 0 to a few units in the last place; -inf at -1, infinity and NaN as they should be."""
    total = 1.0 + x
    bits = total.to(tl.int32, bitcast=True)
    power = (bits - 0x3F3504F3) >> 23  # leaves a factor in [0.71, 1.41]
    factor = (bits - (power << 23)).to(tl.float32, bitcast=True)
    above_one = tl.where(power == 0, x, factor - 1.0)
    z = tl.div_rn(above_one, 2.0 + above_one)
    square = z * z
    series = tl.fma(square, 0.15384615, 0.18181818)
    series = tl.fma(series, square, 0.22222222)
    series = tl.fma(series, square, 0.28571430)
    series = tl.fma(series, square, 0.40000000)
    series = tl.fma(series, square, 0.66666667)
    value = tl.fma(power.to(tl.float32), 0.6931471805599453, tl.fma(series * square, z, 2.0 * z))
    value = tl.where(x == -1.0, -INFINITY, value)
    return tl.where((x != x) | (x == INFINITY), x, value)
