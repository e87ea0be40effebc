"""Statistics of interleaved rounds: medians, quartiles, and paired ratios with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
_SEED = 20210218


@dataclass(frozen=True)
class Spread:
    """The middle of a sample.

    Attributes:
        lower: first quartile.
        median: median.
        upper: third quartile.
    """

    lower: float
    median: float
    upper: float


@dataclass(frozen=True)
class Ratio:
    """A median of paired ratios.

    Attributes:
        median: over the rounds.
        lower: lower end of its 95 % bootstrap interval; the median itself where there is one round only.
        upper: upper end.
        rounds: how many there were.
    """

    median: float
    lower: float
    upper: float
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of a sample of at least one value."""
    lower, median, upper = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75])
    return Spread(float(lower), float(median), float(upper))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Return the median over the rounds of numerator / denominator.

    What slows a whole round down (a busy neighbour, a lower clock) is in both and cancels, which it would not in
    a ratio of medians. The interval resamples rounds, so that pairs stay together.

    Args:
        numerators: one positive value a round.
        denominators: the values of the same rounds.

    Raises:
        ValueError: not as many of one as of the other, none at all, or a value that is not positive.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if len(above) != len(below) or len(above) == 0:
        raise ValueError(f"{len(above)} numerators and {len(below)} denominators; give one of each a round")
    if not (above > 0).all() or not (below > 0).all():
        raise ValueError("a ratio needs positive values in every round")
    ratios = above / below
    lower, upper = bootstrap_interval(ratios)
    return Ratio(float(np.median(ratios)), lower, upper, len(ratios))


def bootstrap_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the median; the same values always give the same interval."""
    generator = np.random.default_rng(_SEED)
    chosen = generator.integers(len(values), size=(RESAMPLES, len(values)))
    medians = np.median(values[chosen], axis=1)
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(medians, [tail, 1 - tail])
    return float(lower), float(upper)
