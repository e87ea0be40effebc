from __future__ import annotations

import gc
from collections import Counter

from benchmarks.interleaving import Rounds, interleave


class Clock:
    """A clock that only jobs move."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def job(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds

        return run


class Pedantic:
    """Runs rounds as pytest-benchmark does."""

    rounds = 0

    def pedantic(self, target, *, setup, teardown, rounds):
        self.rounds = rounds
        for _ in range(rounds):
            setup()
            target()
            teardown()


def contenders(clock):
    return {name: clock.job(name, seconds) for name, seconds in (("ours", 1.0), ("a", 2.0), ("b", 4.0))}


def test_every_contender_gets_its_own_seconds_in_every_round():
    clock = Clock()
    samples = interleave(Pedantic(), contenders(clock), seconds=70, least=3, timer=clock)
    assert samples == {"ours": [1.0] * 10, "a": [2.0] * 10, "b": [4.0] * 10}
    assert list(samples) == ["ours", "a", "b"]


def test_each_round_runs_each_once_in_changing_order():
    clock = Clock()
    interleave(Pedantic(), contenders(clock), seconds=7 * 60, least=3, timer=clock)
    measured = clock.calls[6:]
    orders = [tuple(measured[start : start + 3]) for start in range(0, len(measured), 3)]
    assert len(orders) == 60
    assert all(sorted(order) == ["a", "b", "ours"] for order in orders)
    assert len(set(orders)) == 6
    places = Counter(order.index("ours") for order in orders)
    assert min(places.values()) >= 10


def test_the_number_of_rounds_follows_the_time_between_its_limits():
    def rounds(seconds):
        pedantic, clock = Pedantic(), Clock()
        interleave(pedantic, contenders(clock), seconds=seconds, least=3, most=50, timer=clock)
        return pedantic.rounds

    assert [rounds(seconds) for seconds in (0.0, 70.0, 1e6)] == [3, 10, 50]


def test_garbage_is_collected_before_and_not_during_the_rounds():
    seen = []
    interleave(Pedantic(), {"ours": lambda: seen.append(gc.isenabled())}, seconds=0, least=3)
    assert seen == [True, True, False, False, False]
    assert gc.isenabled()


def test_orders_follow_from_the_seed():
    def order(seed):
        clock = Clock()
        rounds = Rounds(contenders(clock), clock, seed=seed)
        for _ in range(8):
            rounds.before()
            clock.calls.append("ours")
            rounds.after()
        return clock.calls

    assert order(0) == order(0) != order(1)


def test_settling_comes_before_every_job_and_is_not_timed():
    clock = Clock()
    samples = interleave(
        Pedantic(), contenders(clock), seconds=0, least=3, timer=clock, settle=clock.job("settle", seconds=100.0)
    )
    assert samples == {"ours": [1.0] * 3, "a": [2.0] * 3, "b": [4.0] * 3}
    assert clock.calls[::2] == ["settle"] * 15
    assert "settle" not in clock.calls[1::2]
