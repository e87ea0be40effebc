"""Neighbours of float64 numbers, which Triton has not, by their bits."""

from __future__ import annotations

import triton
import triton.language as tl

from .float32_math import INFINITY


@triton.jit
def next_up(x):
    """Return the next number above x; infinity and NaN stay."""
    bits = x.to(tl.int64, bitcast=True)
    above = (bits + tl.where(bits < 0, -1, 1)).to(tl.float64, bitcast=True)
    least = (x == 0).to(tl.int64).to(tl.float64, bitcast=True)  # the number with the bits of 1
    return tl.where((x != x) | (x == INFINITY), x, tl.where(x == 0, least, above))


@triton.jit
def next_down(x):
    """Return the next number below x; minus infinity and NaN stay."""
    return -next_up(-x)
