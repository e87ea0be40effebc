from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ratios import bootstrap_interval, paired_ratio, spread


def test_spread_is_median_and_quartiles():
    middle = spread([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (middle.lower, middle.median, middle.upper) == (2.0, 3.0, 4.0)


def test_a_slow_round_cancels_in_paired_ratios():
    theirs = np.array([1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 10.0])
    ratio = paired_ratio(2 * theirs, theirs)
    assert (ratio.median, ratio.lower, ratio.upper, ratio.rounds) == (2.0, 2.0, 2.0, 7)


def test_pairs_stay_together():
    ours, theirs = [1.0, 20.0, 3.0], [2.0, 10.0, 3.0]
    assert paired_ratio(ours, theirs).median == 1.0
    assert paired_ratio(ours, sorted(theirs)).median != 1.0


def test_the_interval_is_the_same_every_time_and_contains_the_median():
    ours = np.random.default_rng(1).lognormal(0.0, 0.1, 30)
    ratio = paired_ratio(ours, np.ones(30))
    assert ratio == paired_ratio(ours, np.ones(30))
    assert ratio.lower < ratio.median < ratio.upper


def test_the_interval_covers_the_true_median_about_95_times_of_100():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        lower, upper = bootstrap_interval(generator.normal(1.0, 0.05, 25))
        covered += lower <= 1.0 <= upper
    # Three standard deviations of a count that is 95 % on average: 9.2; discreteness costs a little more.
    assert 178 <= covered <= 199


def test_the_interval_shrinks_with_more_rounds():
    generator = np.random.default_rng(3)
    widths = []
    for rounds in (10, 1000):
        lower, upper = bootstrap_interval(generator.normal(1.0, 0.05, rounds))
        widths.append(upper - lower)
    assert widths[1] < widths[0] / 3


def test_one_round_has_no_interval_beyond_itself():
    ratio = paired_ratio([3.0], [2.0])
    assert (ratio.lower, ratio.median, ratio.upper) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0, 2.0], [1.0]), ([], []), ([1.0], [0.0]), ([-1.0], [1.0])])
def test_what_is_no_pair_of_positive_values_is_refused(ours, theirs):
    with pytest.raises(ValueError, match=r"round"):
        paired_ratio(ours, theirs)
