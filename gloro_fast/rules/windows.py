"""Pooling windows along one dimension, and what they do to l2 norms.

Pooling acts on each channel by itself and on each dimension by itself, so that its norm is a product over the
dimensions. Squared norms are exact rational numbers wherever no eigenvalue is needed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ParamSpec

import numpy as np

_UNIT_ROUNDOFF = 2.0**-53
_P = ParamSpec("_P")


def remembered(function: Callable[_P, float]) -> Callable[_P, float]:
    """Compute a function of hashable settings once for each of them.

    ``torch.compile`` calls it while tracing, and has the number in its graph, instead of looking into it.
    """
    cached = functools.lru_cache(maxsize=1024)(function)

    @functools.wraps(function)
    def look_up(*args: _P.args, **kwargs: _P.kwargs) -> float:
        return cached(*args, **kwargs)  # type: ignore[arg-type]

    # What torch.compiler.assume_constant_result does, which would import the compiler: seconds.
    look_up._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return look_up


@dataclass(frozen=True)
class Window:
    """The pixels of one output: ``pixels`` are those inside the image, averaged as if they were ``divisor``."""

    pixels: range
    divisor: int


def pooling_windows(
    size: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> list[Window]:
    """List the windows of ``torch.nn.AvgPool`` and ``MaxPool`` along a dimension of ``size`` pixels.

    The divisor counts padding, but not what ``ceil_mode`` adds beyond it, as in torch.
    """
    reach = dilation * (kernel - 1) + 1
    outputs = (size + 2 * padding - reach + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (outputs - 1) * stride >= size + padding:
        # A window may not begin in the padding at the end.
        outputs -= 1
    windows = []
    for start in range(-padding, outputs * stride - padding, stride):
        # Whole steps from the start, the first of them inside the image.
        first = start if start >= 0 else start + -(start // dilation) * dilation
        divisor = min(start + kernel, size + padding) - start
        windows.append(Window(range(first, min(start + reach, size), dilation), divisor))
    return windows


def adaptive_windows(size: int, outputs: int) -> list[Window]:
    """List the windows of ``torch.nn.AdaptiveAvgPool`` and ``AdaptiveMaxPool``: they cover the image evenly."""
    ends = [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
    return [Window(range(start, stop), stop - start) for start, stop in ends]


def largest_coverage(windows: Iterable[Window]) -> int:
    """Count the windows that the busiest pixel is part of."""
    counts: dict[int, int] = {}
    for window in windows:
        for pixel in window.pixels:
            counts[pixel] = counts.get(pixel, 0) + 1
    return max(counts.values(), default=0)


def squared_averaging_norm(windows: Sequence[Window]) -> Fraction:
    """Return a number >= the squared spectral norm of the matrix A that averages each window (consecutive pixels).

    Windows come in the order of their pixels. Those that share no pixel with another have orthogonal rows, of
    squared norm pixels / divisor^2: exact. For a chain of windows that overlap, G = A A^T is a nonnegative matrix,
    and for every vector x > 0 its largest eigenvalue is at most max_i (G x)_i / x_i (Collatz and Wielandt). With x
    the eigenvector as float64 finds it, the quotient exceeds the eigenvalue by rounding alone; it is enlarged by a
    bound on its own rounding.
    """
    chains: list[list[Window]] = []
    for window in windows:
        if chains and _overlap(chains[-1][-1], window):
            chains[-1].append(window)
        else:
            chains.append([window])
    return max((_squared_norm_of_chain(tuple(chain)) for chain in chains), default=Fraction(0))


def root_up(square: Fraction) -> float:
    """Return the least float64 number whose square is >= ``square``."""
    root = math.sqrt(square)
    while Fraction(root) ** 2 < square:
        root = math.nextafter(root, math.inf)
    return root


def _overlap(a: Window, b: Window) -> int:
    return max(0, min(a.pixels.stop, b.pixels.stop) - max(a.pixels.start, b.pixels.start))


def _squared_norm_of_chain(chain: tuple[Window, ...]) -> Fraction:
    if len(chain) == 1:
        return Fraction(len(chain[0].pixels), chain[0].divisor ** 2)
    gram = np.zeros((len(chain), len(chain)))
    for (i, a), (j, b) in itertools.product(enumerate(chain), repeat=2):
        gram[i, j] = _overlap(a, b) / (a.divisor * b.divisor)
    vector = np.abs(np.linalg.eigh(gram)[1][:, -1])
    vector = np.maximum(vector, vector.max() * 1e-6)
    quotient = float(((gram @ vector) / vector).max())
    # Each entry of G is within one rounding of the real one, each sum of n products of nonnegative numbers within n
    # roundings, the quotient within one: n + 2 in all, and twice that covers their products.
    return Fraction(quotient * (1 + 2 * (len(chain) + 4) * _UNIT_ROUNDOFF))
